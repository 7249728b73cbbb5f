# What the rules read. Each member is guarded: one that is missing reads as empty or as the stricter value, never as
# undefined, since a rule that meets undefined vanishes, and a rule that denies must not.
package exequatur.facts

arguments := object.get(input, "input", {})

attributes := object.get(input, ["resource", "attributes"], {})

calls := object.get(input, ["session", "calls"], {})

server := object.get(input, ["tool", "server"], "")

name := object.get(input, ["tool", "name"], "")

tool := concat("/", [server, name])

writes := object.get(input, ["tool", "access"], "write") != "read"

# Every text of what is written, however deep it lies in the arguments, and every name in it.
texts contains text if {
	writes
	walk(arguments, [_, text])
	is_string(text)
}

# What other agents will read as facts: notes, articles, memories.
lasting contains text if {
	tool in data.lists.lasting
	some text in texts
}

# What customers will read.
outgoing contains text if {
	tool in data.lists.outgoing
	some text in texts
}

# A text as a model reads it: letters that look alike are made one, whatever the case. Twice: as it is, and with the
# digits and signs that stand in for letters.
readings(text) := {plain, strings.replace_n(data.lists.stand_ins, plain)} if {
	plain := lower(strings.replace_n(data.lists.look_alikes, text))
}

# Host and domain names, in links and bare.
names contains {"in": "link", "name": host} if {
	some text in texts
	some found in regex.find_all_string_submatch_n(`[\\/]{2}([^\\/?#\s<>"'()\[\]{}|]*)`, dotted(text), -1)
	host := found[1]
}

names contains {"in": "text", "name": trim_left(found[1], ".-_")} if {
	some text in texts
	some found in regex.find_all_string_submatch_n(data.lists.domain_name, dotted(text), -1)
}

# What stands after the sign of each e-mail address.
names contains {"in": "address", "name": found[1]} if {
	some text in texts
	some found in regex.find_all_string_submatch_n(`@([^\s<>"'()\[\]{}|,;]*[a-z0-9])`, dotted(text), -1)
}

dotted(text) := lower(strings.replace_n(data.lists.dots, text))
