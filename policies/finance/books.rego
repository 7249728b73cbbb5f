# The books: entries that balance, in an open month, and none by which money or payroll would be hidden.
package exequatur.books

import data.exequatur.facts

deny contains {
	"id": "journal.balance",
	"reason": "an entry has 2 to 50 lines, each with a debit or a credit above 0, and both sides are equal",
	"owasp": "ASI02",
} if {
	posts
	not balances(lines)
}

deny contains {
	"id": "journal.period",
	"reason": "entries go into this month or the last; a correction of an older one is posted now, by its difference",
	"owasp": "ASI02",
} if {
	posts
	not is_recent(object.get(facts.arguments, "period", ""))
}

deny contains {
	"id": "journal.cash",
	"reason": "the bank's own feed posts to the cash accounts; post to a clearing account instead",
	"owasp": "ASI02",
} if {
	posts
	some line in lines
	regex.match(data.lists.cash_accounts, object.get(line, "account", "1000"))
}

deny contains {
	"id": "books.text",
	"reason": "this text holds characters that nobody sees, or says nothing; write in plain words what the entry is for",
	"owasp": "ASI09",
} if {
	facts.server == "ledger"
	facts.writes
	some value in facts.values
	value.name == "text"
	not plain(value.text)
}

deny contains {
	"id": "read.span",
	"reason": "one look is at this year and the last, from the first day to the last, and at most 500 entries; ask for less",
	"owasp": "ASI02",
} if {
	facts.tool in {"bank/list_transactions", "ledger/query"}
	not short_look(facts.arguments)
}

deny contains {
	"id": "export.destination",
	"reason": "exports go to the reporting bucket over https and nowhere else; use an address there",
	"owasp": "ASI02",
} if {
	facts.tool == "ledger/export"
	not in_bucket(object.get(facts.attributes, "destination", {}))
}

require_approval contains {
	"id": "journal.large",
	"reason": "an entry above 10,000.00 needs the controller's yes; say in its text what it rests on, and wait",
	"owasp": "ASI09",
	"approvers": ["controllers"],
} if {
	posts
	sum([object.get(line, "debit_cents", 0) | some line in lines]) > 1000000
}

require_approval contains {
	"id": "journal.untrusted",
	"reason": "this session has read what a vendor or payer wrote, which may steer it; a person compares an entry above 1,000.00",
	"owasp": "ASI01",
	"approvers": ["controllers"],
} if {
	posts
	"untrusted_input" in facts.labels
	sum([object.get(line, "debit_cents", 0) | some line in lines]) > 100000
}

require_approval contains {
	"id": "journal.again",
	"reason": "you have posted an entry before, now or in an earlier session; the controller looks at the next one above 1,000.00",
	"owasp": "ASI02",
	"approvers": ["controllers"],
} if {
	posts
	"journal_posted" in facts.labels
	sum([object.get(line, "debit_cents", 0) | some line in lines]) > 100000
}

plain(text) if {
	count(text) >= 3
	count(text) <= 500
	regex.match(`^[\pL\pN\pP\pS ]*$`, text)
}

# Days are compared as text, which sorts as they do: their form is the business of `id.form`.
short_look(look) if {
	object.get(look, "first_day", "9") <= object.get(look, "last_day", "0")
	to_number(substring(object.get(look, "first_day", "0000"), 0, 4)) >= to_number(substring(facts.month, 0, 4)) - 1
	object.get(look, "limit", 50) >= 1
	object.get(look, "limit", 50) <= 500
}

posts if facts.tool == "ledger/post_journal"

lines := object.get(facts.arguments, "lines", [])

balances(listed) if {
	count(listed) >= 2
	count(listed) <= 50
	every line in listed {
		one_sided(line)
	}
	sum([line.debit_cents | some line in listed]) == sum([line.credit_cents | some line in listed])
}

one_sided(line) if {
	line.debit_cents > 0
	line.credit_cents == 0
}

one_sided(line) if {
	line.credit_cents > 0
	line.debit_cents == 0
}

is_recent(period) if {
	ago := number_of(facts.month) - number_of(period)
	ago in {0, 1}
}

# Months since the year 0, so that January follows December.
number_of(month) := (to_number(substring(month, 0, 4)) * 12) + to_number(trim_left(substring(month, 5, 2), "0")) if {
	regex.match(`^20[0-9]{2}-(0[1-9]|1[0-2])$`, month)
}

in_bucket(url) if {
	url.scheme == "https"
	url.port == 443
	url.host in data.lists.export_hosts
}
