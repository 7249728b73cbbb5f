# What is remembered steers every later session, so it is short, plain, of a known kind, about nobody by name, and not
# for ever.
package exequatur.memory

import data.exequatur.content
import data.exequatur.facts

deny contains {
	"id": "memory.kind",
	"reason": "this kind of fact is not remembered; use one of the kinds `preference`, `routing` and `resolution`",
	"owasp": "ASI06",
} if {
	remembers
	not data.lists.memory[kind]
}

deny contains {
	"id": "memory.key",
	"reason": "the key is not one of this kind: `customer/C-1/language`, `routing/billing`, `issue/login-loop`",
	"owasp": "ASI06",
} if {
	remembers
	not regex.match(object.get(data.lists.memory, [kind, "key"], "$^"), key)
}

deny contains {
	"id": "memory.size",
	"reason": "a preference has 1 to 40 characters, a route 80, a resolution 300; say it shorter, or write a help article",
	"owasp": "ASI06",
} if {
	remembers
	not fits(text)
}

deny contains {
	"id": "memory.characters",
	"reason": "a fact is one line in plain Latin letters, digits and common signs; write it so",
	"owasp": "ASI06",
} if {
	remembers
	not regex.match(data.lists.memory_characters, text)
}

deny contains {
	"id": "memory.instructions",
	"reason": "this reads as an order to later sessions; remember what is the case, not what to do",
	"owasp": "ASI06",
} if {
	remembers
	content.orders(text)
}

deny contains {
	"id": "memory.authority",
	"reason": "what somebody may have is never remembered: policy and the billing team know; leave it out",
	"owasp": "ASI06",
} if {
	remembers
	some reading in facts.readings(text)
	regex.match(data.lists.authority, reading)
}

deny contains {
	"id": "memory.link",
	"reason": "a fact holds no link and no address, which later sessions might follow; name the help article by its number",
	"owasp": "ASI06",
} if {
	remembers
	count(facts.names) > 0
}

deny contains {
	"id": "memory.personal",
	"reason": "this holds what looks like an address or a number of a person; it stays in the customer's own record",
	"owasp": "ASI03",
} if {
	remembers
	some pattern in data.lists.personal
	regex.match(pattern, text)
}

deny contains {
	"id": "memory.lifetime",
	"reason": "nothing is remembered for ever; say with `ttl_days` for how long, 1 to 90",
	"owasp": "ASI06",
} if {
	remembers
	not in_time(object.get(facts.arguments, "ttl_days", 0))
}

remembers if facts.tool == "memory/write"

kind := object.get(facts.arguments, "kind", "")

key := object.get(facts.arguments, "key", "")

text := object.get(facts.arguments, "text", "")

fits(fact) if {
	count(trim_space(fact)) > 0
	count(fact) <= object.get(data.lists.memory, [kind, "most"], 0)
}

in_time(days) if {
	is_number(days)
	days >= 1
	days <= 90
}
