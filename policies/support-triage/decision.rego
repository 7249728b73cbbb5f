# The one answer that the decision point asks for. Rego only restricts here: permits are Cedar's, so there is no
# `allow`, and whatever stands in the sets makes the answer stricter.
#
# The facts are read first. Where one of them is undefined, so is the decision, and an undefined decision is a denial.
package exequatur

import data.exequatur.content
import data.exequatur.facts
import data.exequatur.memory
import data.exequatur.reach

decision := {
	"deny": ((content.deny | memory.deny) | reach.deny),
	"require_approval": (content.require_approval | reach.require_approval),
} if {
	facts.server != ""
	facts.name != ""
	is_boolean(facts.writes)
	is_object(facts.arguments)
	is_object(facts.calls)
	is_set(facts.texts)
	is_set(facts.names)
}
