# Payouts and payees: who is paid what, from where, and how much that is with all that went before.
package exequatur.money

import data.exequatur.facts

deny contains {
	"id": "payroll.side-door",
	"reason": "this is an employee, an account or a run of payroll under another tool; payroll is for people alone",
	"owasp": "ASI02",
} if {
	some value in facts.values
	regex.match(object.get(data.lists.payroll, value.name, "$^"), value.text)
}

deny contains {
	"id": "id.form",
	"reason": "this is not the id of one thing; give it as you were given it, such as `V-12`, `INV-881`, `BA-1` or `2026-01`",
	"owasp": "ASI02",
} if {
	some value in facts.values
	pattern := data.lists.ids[value.name]
	not regex.match(pattern, value.text)
}

deny contains {
	"id": "payout.claim",
	"reason": "say the whole payout in micro-USD as `cost_estimate_microusd`, so that the session's budget holds it",
	"owasp": "ASI02",
} if {
	pays
	not facts.claimed >= worth
}

deny contains {
	"id": "payout.batch-list",
	"reason": "a payment run is of 1 to 50 invoices, each once, each from 1 cent to 10,000.00, together to 50,000.00",
	"owasp": "ASI02",
} if {
	facts.tool == "payouts/create_batch"
	not is_run(items)
}

deny contains {
	"id": "payout.text",
	"reason": "banks carry 140 plain letters, digits and `/?:().,'+-`; write what the payee reads so",
	"owasp": "ASI02",
} if {
	facts.server == "payouts"
	not carried(object.get(facts.arguments, "text", ""))
}

deny contains {
	"id": "payee.country",
	"reason": "payees in this country are not added by agents; hand it to procurement",
	"owasp": "ASI02",
} if {
	facts.tool == "payees/create"
	not object.get(facts.arguments, "country", "") in data.lists.countries
}

deny contains {
	"id": "payee.account",
	"reason": "this is not one plain account number, or it is in another country than the payee; hand it to procurement",
	"owasp": "ASI02",
} if {
	facts.tool in {"payees/create", "payees/update_account"}
	not plain_account(facts.arguments)
}

deny contains {
	"id": "payee.account",
	"reason": "this is not one plain account number, or it is in another country than the payee; hand it to procurement",
	"owasp": "ASI02",
} if {
	facts.tool == "payees/create"
	number := object.get(facts.arguments, "account_number", "")
	regex.match(`^[A-Z]{2}[0-9]{2}`, number)
	not startswith(number, object.get(facts.arguments, "country", "-"))
}

deny contains {
	"id": "payee.name",
	"reason": "the name has letters that look like others, or none; write it as the bank has it, in Latin letters",
	"owasp": "ASI09",
} if {
	facts.tool == "payees/create"
	not regex.match(data.lists.payee_name, object.get(facts.arguments, "name", ""))
}

require_approval contains {
	"id": "payout.converted",
	"reason": "this is more than 1,000 dollars in another currency; the treasurer says yes to exactly this payout",
	"owasp": "ASI09",
	"approvers": ["treasurers"],
} if {
	facts.tool == "payouts/create"
	object.get(facts.arguments, "currency", "") != "USD"
	worth > 1000000000
}

require_approval contains {
	"id": "payout.total",
	"reason": "with this the session has paid more than 1,000 dollars in all; the treasurer looks at all of it",
	"owasp": "ASI02",
	"approvers": ["treasurers"],
} if {
	pays
	facts.spent > 0
	facts.spent + worth > 1000000000
}

carried(text) if {
	count(text) <= 140
	regex.match(`^[A-Za-z0-9/?:().,'+ -]*$`, text)
}

pays if facts.tool in {"payouts/create", "payouts/create_batch"}

items := object.get(facts.arguments, "items", [])

# In micro-USD, rounded up; a currency that is not listed is worth more than any budget.
worth := cents * object.get(data.lists.microusd_per_cent, object.get(facts.arguments, "currency", ""), 9007199254740991)

cents := object.get(facts.arguments, "amount_cents", 9007199254740991) if facts.tool != "payouts/create_batch"

cents := sum([item.amount_cents | some item in items]) if facts.tool == "payouts/create_batch"

is_run(listed) if {
	count(listed) > 0
	count(listed) <= 50
	every item in listed {
		item.amount_cents >= 1
		item.amount_cents <= 1000000
	}
	count({item.invoice_id | some item in listed}) == count(listed)
	sum([item.amount_cents | some item in listed]) <= 5000000
}

plain_account(given) if {
	regex.match(`^[A-Z0-9]{8,34}$`, object.get(given, "account_number", ""))
	regex.match(`^([A-Z0-9]{6,11})?$`, object.get(given, "bank_code", ""))
}
