# Model calls, by tier: the less we know of where a model runs, the less it is told.
package exequatur.models

import data.exequatur.facts

deny contains {
	"id": "model.unlisted",
	"reason": "this model has no tier yet, so nobody has said what it may be told; use model/house-8b",
	"owasp": "ASI04",
} if {
	asks
	not data.lists.models[facts.name]
}

deny contains {
	"id": "model.data",
	"reason": "this session has read data that this tier must not see, and may repeat it; use model/house-8b",
	"owasp": "ASI03",
} if {
	asks
	some label in facts.labels
	label in object.get(tier, "refuses", data.lists.labels)
}

deny contains {
	"id": "model.personal",
	"reason": "this holds what looks like the data of a person or an account; take it out, or use model/house-8b",
	"owasp": "ASI03",
} if {
	asks
	not object.get(tier, "in_house", false)
	some value in facts.values
	some pattern in data.lists.personal
	regex.match(pattern, readable(value.text))
}

deny contains {
	"id": "model.ledger",
	"reason": "this names payees, invoices, payouts or accounts of ours; take them out, or use a model under our contract",
	"owasp": "ASI03",
} if {
	asks
	not object.get(tier, "contract", false)
	some value in facts.values
	regex.match(data.lists.our_ids, readable(value.text))
}

deny contains {
	"id": "model.hidden",
	"reason": "this holds encoded text, or characters that nobody sees, so what it tells cannot be checked; write it plainly",
	"owasp": "ASI02",
} if {
	asks
	not object.get(tier, "in_house", false)
	some value in facts.values
	regex.match(data.lists.hidden, value.text)
}

deny contains {
	"id": "model.tokens",
	"reason": "this asks for more than the tier answers, or for nothing; ask for 1 to 8000, 4000 or 2000 tokens by tier",
	"owasp": "ASI02",
} if {
	asks
	not in_range(object.get(facts.arguments, "max_tokens", 0), object.get(tier, "max_tokens", 0))
}

deny contains {
	"id": "model.size",
	"reason": "this is more text than the tier takes; sum it up first with model/house-8b",
	"owasp": "ASI02",
} if {
	asks

	# All of it, not the set of texts: the same text twice is told twice.
	sum([count(text) | walk(facts.arguments, [_, text]); is_string(text)]) > object.get(tier, "characters", 0)
}

asks if facts.server == "model"

tier := object.get(data.lists.models, facts.name, {})

in_range(tokens, most) if {
	is_number(tokens)
	tokens >= 1
	tokens <= most
}

# Letters and digits as they are meant: the full-width ones as plain, dashes and blanks of all kinds as one.
readable(text) := upper(strings.replace_n(data.lists.look_alikes, text))
