# The one answer that the decision point asks for. Rego only restricts here: permits are Cedar's, so there is no
# `allow`, and whatever stands in the sets makes the answer stricter.
#
# The facts are read first. Where one of them is undefined, so is the decision, and an undefined decision is a denial.
package exequatur

import data.exequatur.books
import data.exequatur.facts
import data.exequatur.models
import data.exequatur.money

decision := {
	"deny": ((money.deny | books.deny) | models.deny),
	"require_approval": (money.require_approval | books.require_approval),
} if {
	facts.server != ""
	facts.name != ""
	is_boolean(facts.writes)
	is_object(facts.arguments)
	is_array(facts.labels)
	is_number(facts.claimed)
	is_number(facts.spent)
	is_string(facts.month)
	is_set(facts.values)
}
