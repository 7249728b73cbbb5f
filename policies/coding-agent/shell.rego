# Command lines. What is listed in `data.lists.commands` runs, what is dangerous is denied, and anything else needs a
# person. The denials look at every program that a line may start, so they hold for lines that are not simple, too.
package exequatur.shell

import data.exequatur.facts

deny contains {
	"id": "shell.destructive",
	"reason": "this command destroys what cannot be brought back; delete single files with fs/delete_path instead",
	"owasp": "ASI02",
} if {
	starts(data.lists.destructive)
}

deny contains {
	"id": "shell.privileged",
	"reason": "commands run with the agent's own rights; tell the user what needs more, and why",
	"owasp": "ASI03",
} if {
	some program in facts.programs
	program in data.lists.privileged
}

deny contains {
	"id": "shell.network",
	"reason": "the shell has no way to the network; use web/fetch, which knows the hosts that are allowed",
	"owasp": "ASI02",
} if {
	some program in facts.programs
	program in data.lists.networked
}

deny contains {
	"id": "shell.install",
	"reason": "packages are not installed from the shell; use pkg/install, where their registry is checked",
	"owasp": "ASI04",
} if {
	starts(data.lists.installers)
}

deny contains {
	"id": "shell.remote",
	"reason": "git remotes and git's configuration are not for the shell; push with forge/push, where the branch is checked",
	"owasp": "ASI02",
} if {
	starts(data.lists.remotes)
}

require_approval contains {
	"id": "shell.metacharacters",
	"reason": "this line uses the shell's own syntax, so what it runs cannot be told; send one plain command at a time",
	"owasp": "ASI05",
} if {
	commanded
	not facts.simple
}

require_approval contains {
	"id": "shell.interpreter",
	"reason": "this program runs code that it is given; put the code in a file of the project and run its tests instead",
	"owasp": "ASI05",
} if {
	some program in facts.programs
	program in data.lists.interpreters
}

require_approval contains {
	"id": "shell.not-listed",
	"reason": "this command is not on the list of those that run without a person; use a listed one, or wait for approval",
	"owasp": "ASI05",
} if {
	commanded
	not is_listed
}

require_approval contains {
	"id": "shell.outside-workspace",
	"reason": "this command names a path outside the workspace; use paths inside it, without `..`",
	"owasp": "ASI02",
} if {
	some word in array.slice(facts.words, 1, count(facts.words))
	leads_out(word)
	not inside(word)
}

commanded if facts.server == "shell"

# Whether the line may start one of these programs in a way that its pattern finds in the line.
starts(programs) if {
	some program in facts.programs
	pattern := programs[program]
	some line in facts.lines
	regex.match(pattern, line)
}

is_listed if {
	listed := data.lists.commands[facts.words[0]]
	verb_listed(listed)
	not refused(listed)
}

verb_listed(listed) if not listed.verbs

verb_listed(listed) if facts.words[1] in listed.verbs

refused(listed) if {
	some word in array.slice(facts.words, 1, count(facts.words))
	regex.match(listed.refused, word)
}

leads_out(word) if {
	some start in ["/", "~"]
	startswith(word, start)
}

# `--config=/etc/x`, `src:/etc`, `@/etc/x`, `-I/usr/include`.
leads_out(word) if {
	some inner in ["=/", "=~", ":/", ",/", "@/"]
	contains(word, inner)
}

leads_out(word) if {
	startswith(word, "-")
	not startswith(word, "--")
	contains(word, "/")
}

leads_out(word) if {
	contains(word, "..")
	".." in split(facts.parted(word), "/")
}

inside(word) if {
	some workspace in data.lists.workspaces
	startswith(concat("", [word, "/"]), workspace)
	not ".." in split(word, "/")
}
