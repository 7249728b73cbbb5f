# How far one call reaches: one ticket, a few hits, our own addresses, a list that a person can look through.
package exequatur.reach

import data.exequatur.facts

deny contains {
	"id": "id.form",
	"reason": "this is not the id of one thing; give it as you were given it, such as `T-1001`, `C-204`, `O-77` or `KB-12`",
	"owasp": "ASI02",
} if {
	some name, pattern in data.lists.ids
	value := facts.arguments[name]
	some id in listed(value)
	not regex.match(pattern, id)
}

deny contains {
	"id": "search.wide",
	"reason": "this search is for everything; look for at least three letters or digits of what you need",
	"owasp": "ASI02",
} if {
	searches
	not regex.match(`[\pL\pN](.*[\pL\pN]){2}`, object.get(facts.arguments, "query", ""))
}

deny contains {
	"id": "search.wide",
	"reason": "one search gives 1 to 25 hits; narrow it down instead of asking for more",
	"owasp": "ASI02",
} if {
	searches
	not few(object.get(facts.arguments, "limit", 1))
}

deny contains {
	"id": "search.pattern",
	"reason": "searches are by words, not by pattern or query language; leave the signs out",
	"owasp": "ASI02",
} if {
	searches
	regex.match(data.lists.query_signs, object.get(facts.arguments, "query", ""))
}

deny contains {
	"id": "bulk.list",
	"reason": "one bulk change is of 1 to 50 tickets, each named once; split it by what the tickets have in common",
	"owasp": "ASI02",
} if {
	facts.tool == "desk/bulk_update"
	tickets := object.get(facts.arguments, "ticket_ids", [])
	not short_list(tickets)
}

deny contains {
	"id": "mail.recipient",
	"reason": "mail goes to colleagues only, 1 to 5 of them by their plain address; a customer is answered by mail/reply",
	"owasp": "ASI02",
} if {
	facts.tool == "mail/send"
	some address in recipients
	not regex.match(data.lists.colleague, address)
}

deny contains {
	"id": "mail.recipient",
	"reason": "mail goes to colleagues only, 1 to 5 of them by their plain address; a customer is answered by mail/reply",
	"owasp": "ASI02",
} if {
	facts.tool == "mail/send"
	not few_recipients
}

deny contains {
	"id": "mail.recipient",
	"reason": "mail goes to colleagues only, 1 to 5 of them by their plain address; a customer is answered by mail/reply",
	"owasp": "ASI02",
} if {
	facts.tool == "mail/send"
	some address in recipients
	split(address, "@")[0] in data.lists.distribution
}

deny contains {
	"id": "refund.reason",
	"reason": "the books need to know why: say in 10 to 200 characters what the customer lost",
	"owasp": "ASI09",
} if {
	facts.tool == "billing/refund"
	not says_why(trim_space(object.get(facts.arguments, "reason", "")))
}

deny contains {
	"id": "export.destination",
	"reason": "exports go to the reporting bucket over https and nowhere else; use an address there",
	"owasp": "ASI02",
} if {
	facts.tool in {"desk/export_tickets", "crm/export_customers"}
	not in_bucket(object.get(facts.attributes, "destination", {}))
}

require_approval contains {
	"id": "writes.many",
	"reason": "this session has written twenty times, more than a ticket needs; a lead looks at what it is doing",
	"owasp": "ASI08",
	"approvers": ["support-leads"],
} if {
	facts.writes
	sum([count | some tool, count in facts.calls; tool in data.lists.writing]) >= 20
}

searches if facts.name in {"search", "search_customers", "search_tickets"}

few(limit) if {
	is_number(limit)
	limit >= 1
	limit <= 25
}

listed(value) := value if is_array(value)

listed(value) := [value] if not is_array(value)

short_list(tickets) if {
	count(tickets) > 0
	count(tickets) <= 50
	count({ticket | some ticket in tickets}) == count(tickets)
}

recipients := array.concat(object.get(facts.arguments, "to", []), object.get(facts.arguments, "cc", []))

few_recipients if {
	count(recipients) > 0
	count(recipients) <= 5
}

says_why(reason) if {
	count(reason) >= 10
	count(reason) <= 200
}

in_bucket(url) if {
	url.scheme == "https"
	url.port == 443
	url.host in data.lists.export_hosts
}
