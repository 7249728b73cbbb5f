# Files, whatever tool names them: paths, revisions such as `HEAD:.env`, and the words of command lines.
package exequatur.files

import data.exequatur.facts

deny contains {
	"id": "files.secret",
	"reason": "this names a file that holds secrets; work without its content, or ask the user for the one value that you need",
	"owasp": "ASI03",
} if {
	some text in facts.named
	some fragment in data.lists.secrets
	contains(text, fragment)
	not only_an_example(text, fragment)
}

deny contains {
	"id": "files.protected",
	"reason": "this would change how CI, an agent, an editor or git itself behaves; propose the change to the user instead",
	"owasp": "ASI05",
} if {
	facts.writes
	not reads_only
	some text in facts.named
	some fragment in data.lists.protected
	contains(text, fragment)
}

deny contains {
	"id": "files.outside-workspace",
	"reason": "this path is outside the workspace; use an absolute path inside it",
	"owasp": "ASI02",
} if {
	some path in facts.paths
	not in_workspace(path)
}

# For a tool that is registered without saying which of its arguments are paths.
deny contains {
	"id": "files.outside-workspace",
	"reason": "this tool acts on files, and no path can be read from its arguments; give one inside the workspace",
	"owasp": "ASI02",
} if {
	facts.server in {"fs", "git", "shell"}
	count(facts.paths) == 0
}

deny contains {
	"id": "files.key-material",
	"reason": "this text holds what looks like a private key or an access token; leave it out and refer to where it is kept",
	"owasp": "ASI03",
} if {
	some text in facts.prose
	some mark, pattern in data.lists.key_material
	contains(text, mark)
	regex.match(pattern, text)
}

deny contains {
	"id": "git.pathspec",
	"reason": "git reads patterns here, so this could stage more than it says; name each file plainly",
	"owasp": "ASI02",
} if {
	some file in object.get(facts.arguments, "files", [])
	is_pattern(file)
}

warn contains {
	"id": "git.add-all",
	"reason": "this stages everything in the repository; name the files that belong to the change",
	"owasp": "ASI02",
} if {
	some file in object.get(facts.attributes, "files", [])
	file == object.get(facts.attributes, "repo_path", "")
}

in_workspace(path) if {
	some workspace in data.lists.workspaces
	startswith(concat("", [path, "/"]), workspace)
}

# `.env.example` and its like; whatever else the text names still counts.
only_an_example(text, fragment) if not contains(strings.replace_n(data.lists.examples, text), fragment)

is_pattern(file) if startswith(file, ":")

is_pattern(file) if {
	some mark in ["*", "?", "[", "\\"]
	contains(file, mark)
}

# A command that only reads may name protected files.
reads_only if {
	facts.simple
	object.get(data.lists.commands, [facts.words[0], "reads"], false)
}
