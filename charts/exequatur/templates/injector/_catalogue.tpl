{{/*
What the injector knows: which agents there are, who may be which, and what is put beside them. That a tool checks who
calls is for people, not for the injector; see `doors.yaml`. U+0085 is spelt out, as YAML takes it for the end of a line.
*/}}
{{- define "exequatur.catalogue" -}}
{{- $injector := .Values.injector -}}
{{- $agents := dict -}}
{{- range $name, $agent := .Values.agents -}}
{{- $doors := dict -}}
{{- range $door, $how := $agent.doors -}}
{{- if eq $how.kind "grpc" -}}
{{- $_ := set $doors $door (dict "kind" "grpc") -}}
{{- else -}}
{{- $_ := set $doors $door (dict "kind" "mcp" "enforced" ($how.enforced | default false) "image" ($how.image | default "")
  "command" $how.command "mounts" ($how.mounts | default dict) "envFromSecret" ($how.envFromSecret | default "")) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $agents $name (dict "tenant" $.Values.pdp.tenant "serviceAccounts" $agent.serviceAccounts
  "sessions" ($agent.sessions | default (list "pod-name")) "serviceAccountToken" ($agent.serviceAccountToken | default false)
  "doors" $doors) -}}
{{- end -}}
{{- $rules := dict "image" $injector.uidRules.image "agentMay" $injector.uidRules.agentMay "dns" $injector.uidRules.dns -}}
{{- dict "version" 1 "image" (include "exequatur.image" .) "pullPolicy" .Values.image.pullPolicy
  "pullSecrets" $injector.pullSecrets "listen" .Values.listenAddress
  "pdp" (include "exequatur.pdp.address" .) "ledger" (include "exequatur.ledger.address" .)
  "trust" (gt (len (.Values.ledger.verifierKeys | default dict)) 0)
  "resources" (dict "sidecar" $injector.sidecarResources "mcp" $injector.mcpResources)
  "decisionTimeoutMs" $injector.decisionTimeoutMs "drainGraceS" $injector.sidecarDrainSeconds
  "uidRules" (ternary $rules nil $injector.uidRules.enabled) "agents" $agents | toPrettyJson | replace "\u0085" "\\u0085" -}}
{{- end }}
