# Hosts, registries and packages. Everything that leaves does so by https, to a name on a list.
package exequatur.network

import data.exequatur.facts

deny contains {
	"id": "web.host",
	"reason": "this host is not on the allowlist; use one of the documentation hosts, or ask the user to fetch the page",
	"owasp": "ASI02",
} if {
	facts.tool == "web/fetch"
	not host_in(host(object.get(facts.attributes, "url", {})), data.lists.hosts)
}

deny contains {
	"id": "web.address",
	"reason": "bare addresses and names of this machine or its cloud are never reached; use a public host name",
	"owasp": "ASI03",
} if {
	some url in urls
	local(host(url))
}

deny contains {
	"id": "web.scheme",
	"reason": "only https on its own port is allowed; use the https address",
	"owasp": "ASI07",
} if {
	some url in urls
	not https(url)
}

deny contains {
	"id": "pkg.registry",
	"reason": "this registry is not approved for this package manager; use the manager's approved one",
	"owasp": "ASI04",
} if {
	facts.tool == "pkg/install"
	not host_in(host(object.get(facts.attributes, "registry", {})), manager.hosts)
}

deny contains {
	"id": "pkg.source",
	"reason": "a package is given by its registry name and version, not by an address, a path or an option",
	"owasp": "ASI04",
} if {
	some name in packages
	not regex.match(manager["package"], name)
}

deny contains {
	"id": "pkg.source",
	"reason": "no package is named; give each by its registry name and version",
	"owasp": "ASI04",
} if {
	facts.tool == "pkg/install"
	count(packages) == 0
}

warn contains {
	"id": "pkg.unpinned",
	"reason": "this takes whatever version is newest; name the version that you want",
	"owasp": "ASI04",
} if {
	some name in packages
	not regex.match(data.lists.pinned, name)
}

# The addresses among the arguments, as the registry read them; one that it did not read is no https address.
urls contains object.get(facts.attributes, name, {}) if {
	some name, _ in facts.arguments
	name in {"registry", "url"}
}

packages := object.get(facts.arguments, "packages", [])

# A manager that is not listed has no hosts and no packages.
manager := object.get(data.lists.registries, object.get(facts.arguments, "manager", ""), {"hosts": [], "package": "$^"})

# An address that cannot be read is this machine's.
host(url) := object.get(url, "host", "127.0.0.1")

https(url) if {
	url.scheme == "https"
	url.port == 443
}

local(name) if regex.match(`^[0-9.]+$|[:\[]`, name)

local(name) if host_in(name, data.lists.metadata_hosts)

# An entry that starts with a dot stands for all names under it.
host_in(name, hosts) if name in hosts

host_in(name, hosts) if {
	some suffix in hosts
	startswith(suffix, ".")
	endswith(name, suffix)
}
