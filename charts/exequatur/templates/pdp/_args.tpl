{{/* How the decision point is called: what follows from the values, then the further settings. */}}
{{- define "exequatur.pdp.args" -}}
{{- $pdp := .Values.pdp -}}
- pdp
- serve
- --listen={{ .Values.listenAddress }}:7070
- --http={{ .Values.listenAddress }}:9080
- --health={{ .Values.listenAddress }}:9070
- --workers={{ $pdp.workers }}
- --state=/var/lib/exequatur/state
- {{ printf "--tenant=%s" $pdp.tenant | quote }}
{{- if eq $pdp.bundle.from "url" }}
- {{ printf "--bundle=%s" $pdp.bundle.url | quote }}
{{- if $pdp.bundle.tokenSecret }}
- --bundle-token=/etc/exequatur/bundle-token/token
{{- end }}
{{- if $pdp.bundle.rootsConfigMap }}
- --bundle-roots=/etc/exequatur/bundle-roots/ca.crt
{{- end }}
{{- else }}
- --bundle=/etc/exequatur/bundles
{{- end }}
- --keys=/etc/exequatur/keys
- --tls-certificate=/etc/exequatur/tls/tls.crt
- --tls-key=/etc/exequatur/tls/tls.key
- --tls-roots=/etc/exequatur/tls/ca.crt
{{- range $pdp.openers }}
- {{ printf "--openers=%s" . | quote }}
{{- end }}
{{- range $pdp.auditors }}
- {{ printf "--auditors=%s" . | quote }}
{{- end }}
{{- range $pdp.operators }}
- {{ printf "--operators=%s" . | quote }}
{{- end }}
{{- range (include "exequatur.enforced" . | fromJsonArray) }}
- {{ printf "--enforced=%s" . | quote }}
{{- end }}
- --ledger={{ include "exequatur.ledger.address" . }}
{{- if .Values.ledger.verifierKeys }}
- --log-key=/etc/exequatur/trust
{{- end }}
{{- if include "exequatur.postgresql" . }}
- --database=/etc/exequatur/database/url
- --wait-for-ledger
{{- end }}
- --drain-grace-s={{ $pdp.drainSeconds }}
{{- range $name, $value := $pdp.settings }}
- {{ printf "--%s=%s" ($name | replace "_" "-") (kindIs "string" $value | ternary $value (toJson $value)) | quote }}
{{- end }}
{{- end }}
