# The one answer that the decision point asks for. Rego only restricts here: permits are Cedar's, so there is no
# `allow`, and whatever stands in the sets makes the answer stricter.
#
# The facts are read first. Where one of them is undefined, so is the decision, and an undefined decision is a denial.
package exequatur

import data.exequatur.facts
import data.exequatur.files
import data.exequatur.network
import data.exequatur.shell

decision := {
	"deny": ((files.deny | shell.deny) | network.deny),
	"require_approval": shell.require_approval,
	"warn": (files.warn | network.warn),
} if {
	facts.server != ""
	facts.name != ""
	is_boolean(facts.writes)
	is_array(facts.words)
	is_set(facts.lines)
	is_set(facts.named)
	is_set(facts.paths)
}
