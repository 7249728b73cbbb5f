# What is forbidden whoever permits it. Rego restricts here: there is no `allow`, and each entry makes the answer
# stricter. The facts are read first: where one is undefined, so is the decision, and that is a denial.
package exequatur

decision := {"deny": deny} if {
	is_string(tool)
	is_object(input.input)
}

tool := concat("/", [input.tool.server, input.tool.name])

deny contains {"id": "notes.outside", "owasp": "ASI02", "reason": "notes are under `/notes/`; choose a path there"} if {
	input.tool.server == "notes"
	not startswith(object.get(input, ["resource", "attributes", "path"], ""), "/notes/")
}

deny contains {"id": "mail.domain", "owasp": "ASI02", "reason": "mail goes to our own domains only"} if {
	tool == "mail/send"
	not our_address
}

our_address if {
	parts := split(lower(object.get(input.input, "to", "")), "@")
	count(parts) == 2
	parts[1] in data.mail.domains
}
