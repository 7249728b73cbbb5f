# What the rules read. Each member is guarded: one that is missing reads as empty or as the stricter value, never as
# undefined, since a rule that meets undefined vanishes, and a rule that denies must not.
package exequatur.facts

arguments := object.get(input, "input", {})

attributes := object.get(input, ["resource", "attributes"], {})

# A session whose labels are missing has them all.
labels := object.get(input, ["session", "labels"], data.lists.labels)

server := object.get(input, ["tool", "server"], "")

name := object.get(input, ["tool", "name"], "")

tool := concat("/", [server, name])

writes := object.get(input, ["tool", "access"], "write") != "read"

claimed := object.get(input, ["claims", "cost_estimate_microusd"], 0)

spent := object.get(input, ["session", "spent_microusd"], 9007199254740991)

# The month of the decision, as `2026-01`.
month := substring(object.get(input, ["request", "time"], ""), 0, 7)

# Every text in the arguments with the name of the argument or member that it stands under, however deep.
values contains {"name": name, "text": text} if {
	walk(arguments, [path, text])
	is_string(text)
	some name in [part | some part in path; is_string(part)]
}
