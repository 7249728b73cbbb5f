{{/* How the ledger is called. Who may write follows from who there is: the decision point, and each agent's sidecar. */}}
{{- define "exequatur.ledger.args" -}}
- ledger
- serve
- --listen={{ .Values.listenAddress }}:7071
- --http={{ .Values.listenAddress }}:9081
- --health={{ .Values.listenAddress }}:9071
- --folder=/var/lib/exequatur/log
- {{ printf "--origin=%s" .Values.ledger.origin | quote }}
- --key=/etc/exequatur/key
- --tls-certificate=/etc/exequatur/tls/tls.crt
- --tls-key=/etc/exequatur/tls/tls.key
- --tls-roots=/etc/exequatur/tls/ca.crt
- --writers={{ include "exequatur.partIdentity" (list . "pdp") }}
{{- range (include "exequatur.accounts" . | fromJsonArray) }}
- --writers={{ include "exequatur.identity" (list $ .) }}
{{- end }}
{{- range .Values.ledger.auditors }}
- {{ printf "--auditors=%s" . | quote }}
{{- end }}
- --drain-grace-s={{ .Values.ledger.drainSeconds }}
{{- range $name, $value := .Values.ledger.settings }}
- {{ printf "--%s=%s" ($name | replace "_" "-") (kindIs "string" $value | ternary $value (toJson $value)) | quote }}
{{- end }}
{{- end }}
