# What the rules read. Each member is guarded: one that is missing reads as empty or as the stricter value, never as
# undefined, since a rule that meets undefined vanishes, and a rule that denies must not.
package exequatur.facts

arguments := object.get(input, "input", {})

attributes := object.get(input, ["resource", "attributes"], {})

server := object.get(input, ["tool", "server"], "")

name := object.get(input, ["tool", "name"], "")

tool := concat("/", [server, name])

writes := object.get(input, ["tool", "access"], "write") != "read"

# Canonical absolute paths.
paths contains path if {
	some name in data.lists.path_arguments
	some path in listed(object.get(attributes, name, []))
}

# The command of `shell/run` or `shell/exec`, as the registry's tokeniser read it.
command := object.get(attributes, "command", object.get(attributes, "argv", {}))

words := object.get(command, "argv", [])

simple := object.get(command, "simple", false)

# Command lines in lower case: as they were read, and, where that may differ from what runs, as they were sent.
lines contains lower(concat(" ", words)) if count(words) > 0

lines contains lower(arguments.command) if not plain

lines contains lower(concat(" ", arguments.argv)) if not plain

plain if {
	simple
	count(words) > 0
}

# The programs that a command line may start, by base name and without a version (`python3.11` is `python`). Of a
# simple command that is the first word; where the shell, or a program that starts others, has a say, any word may be.
programs contains program(words[0]) if count(words) > 0

programs contains program(word) if {
	not starts_one
	some line in lines
	some word in split(parted(line), "/")
	word != ""
}

starts_one if {
	simple
	not program(words[0]) in data.lists.interpreters
}

program(word) := trim_right(name, "0123456789.") if {
	parts := split(lower(word), "/")
	name := parts[count(parts) - 1]
}

# Every text that can name a file, in lower case and between slashes: canonical arguments, command lines, and arguments
# as sent that are neither canonical nor prose. In the latter two, all that parts names is made a slash, so that
# `HEAD:conf/.env` is `/head/conf/.env/`. One `contains` then finds a name (`/.env/`), the start of one (`/.env.`), the
# end of one (`.pem/`), or a path from the root (`//proc/`).
named contains between_slashes(text) if {
	some name, value in attributes
	not name in {"argv", "command"}
	walk(value, [_, text])
	is_string(text)
}

named contains between_slashes(parted(line)) if some line in lines

named contains between_slashes(parted(text)) if {
	some name, value in arguments
	not attributes[name]
	not name in data.lists.prose
	walk(value, [_, text])
	is_string(text)
}

between_slashes(text) := concat("", ["/", lower(text), "/"])

parted(text) := strings.replace_n(data.lists.separators, text)

# Prose: what is written, committed or sent.
prose contains text if {
	some name in data.lists.prose
	text := object.get(arguments, name, "")
}

listed(value) := value if is_array(value)

listed(value) := [value] if is_string(value)
