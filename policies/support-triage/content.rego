# What is written: to customers, colleagues and other agents.
package exequatur.content

import data.exequatur.facts

deny contains {
	"id": "content.secret",
	"reason": "this text holds what looks like a key, a token or a password; leave it out and say where it is kept",
	"owasp": "ASI03",
} if {
	some text in facts.texts
	some pattern in data.lists.secrets
	regex.match(pattern, text)
}

deny contains {
	"id": "content.card",
	"reason": "this text holds what looks like the number of a card or a bank account; name it by its last four digits",
	"owasp": "ASI03",
} if {
	some text in facts.texts
	some number in numbers_in(text)
	holds_card(number)
}

deny contains {
	"id": "content.card",
	"reason": "this text holds what looks like the number of a card or a bank account; name it by its last four digits",
	"owasp": "ASI03",
} if {
	some text in facts.texts
	regex.match(data.lists.iban, upper(text))
}

deny contains {
	"id": "content.invisible",
	"reason": "this text holds characters that nobody sees, which can hide words or turn them round; write it without them",
	"owasp": "ASI01",
} if {
	some text in facts.texts
	regex.match(data.lists.invisible, text)
}

deny contains {
	"id": "content.encoded",
	"reason": "this text holds encoded data, which nobody can read; write in plain words",
	"owasp": "ASI02",
} if {
	some text in facts.texts
	regex.match(data.lists.encoded, text)
}

deny contains {
	"id": "content.link",
	"reason": "customers get links and addresses of our own only; link to an article of the help centre, or leave it out",
	"owasp": "ASI09",
} if {
	count(facts.outgoing) > 0
	some found in facts.names
	not our_own(found)
}

deny contains {
	"id": "content.link",
	"reason": "customers get links and addresses of our own only; link to an article of the help centre, or leave it out",
	"owasp": "ASI09",
} if {
	some text in facts.outgoing
	regex.match(data.lists.schemes, text)
}

deny contains {
	"id": "content.size",
	"reason": "a text has at most 10,000 characters, which is more than anybody reads; split it, or leave most of it out",
	"owasp": "ASI02",
} if {
	some text in facts.texts
	count(text) > 10000
}

deny contains {
	"id": "content.disguised",
	"reason": "this text has letters that only look like others; write each word in the letters of one script",
	"owasp": "ASI01",
} if {
	some text in facts.texts
	regex.match(data.lists.disguised, text)
}

deny contains {
	"id": "content.line",
	"reason": "subjects, titles, tags and reasons are one line; leave out line breaks and tabs",
	"owasp": "ASI02",
} if {
	facts.writes
	some name in data.lists.one_line
	walk(object.get(facts.arguments, name, ""), [_, text])
	is_string(text)
	regex.match(`[\x{0}-\x{1F}\x{7F}]`, text)
}

require_approval contains {
	"id": "content.instructions",
	"reason": "this reads as an order to whoever reads it next; write what is the case, or wait for an editor",
	"owasp": "ASI06",
	"approvers": ["knowledge-editors"],
} if {
	some text in facts.lasting
	orders(text)
}

require_approval contains {
	"id": "content.long",
	"reason": "this is longer than an answer or a note needs to be; shorten it, or wait for a person who reads it all",
	"owasp": "ASI09",
	"approvers": ["session-owner"],
} if {
	facts.server in {"mail", "desk"}
	some text in facts.texts
	count(text) > 4000
}

# Whether a text tells its reader what to do.
orders(text) if {
	some reading in facts.readings(text)
	some pattern in data.lists.orders
	regex.match(pattern, reading)
}

orders(text) if {
	some reading in facts.readings(text)
	regex.match(data.lists.orders_unspaced, strings.replace_n(data.lists.between, reading))
}

our_own(found) if {
	found["in"] in {"link", "text"}
	found.name in data.lists.hosts
}

our_own(found) if {
	found["in"] in {"address", "text"}
	found.name in data.lists.domains
}

# Runs of digits as long as the number of a card or longer, without what stands between them.
numbers_in(text) := {number |
	some found in regex.find_all_string_submatch_n(data.lists.digits, strings.replace_n(data.lists.digit_forms, text), -1)
	number := concat("", [digit[0] | some digit in regex.find_all_string_submatch_n(`[0-9]`, found[0], -1)])
}

holds_card(number) if {
	some start in numbers.range(0, count(number))
	some length in [13, 14, 15, 16, 19]
	start + length <= count(number)
	part := substring(number, start, length)
	regex.match(data.lists.cards, part)
	adds_up(part)
}

# Luhn's sum: https://www.iso.org/standard/70484.html, annex B.
adds_up(number) if {
	last := count(number) - 1
	total := sum([value |
		some place in numbers.range(0, last)
		value := luhn[(last - place) % 2][to_number(substring(number, place, 1))]
	])
	total % 10 == 0
}

luhn := [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]
