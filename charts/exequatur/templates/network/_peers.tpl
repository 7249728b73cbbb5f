{{/* Whom a NetworkPolicy means: {cidr}, or {namespace, podLabels}. */}}
{{- define "exequatur.peer" -}}
{{- if .cidr -}}
ipBlock:
  cidr: {{ .cidr | quote }}
{{- else -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .namespace | quote }}
{{- with .podLabels }}
podSelector:
  matchLabels: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}
{{- end }}

{{- define "exequatur.peers" -}}
{{- range . }}
- {{ include "exequatur.peer" . | nindent 2 | trim }}
{{- end }}
{{- end }}

{{/* Ways out, one a place: {cidr | namespace, podLabels; ports}. */}}
{{- define "exequatur.places" -}}
{{- range . }}
- to: {{- include "exequatur.peers" (list .) | nindent 4 }}
  ports: {{- include "exequatur.ports" .ports | nindent 4 }}
{{- end }}
{{- end }}

{{- define "exequatur.ports" -}}
{{- range . }}
- protocol: TCP
  port: {{ . }}
{{- end }}
{{- end }}

{{/* One of our parts, from whatever namespace: (list . "pdp") */}}
{{- define "exequatur.partPeer" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ (index . 0).Release.Namespace | quote }}
  podSelector:
    matchLabels: {{- include "exequatur.selector" . | nindent 6 }}
{{- end }}

{{/* All sidecars: injected pods of the namespaces where agents are. */}}
{{- define "exequatur.sidecars" -}}
{{- with (include "exequatur.namespaces" . | fromJsonArray) -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values: {{ toJson . }}
  podSelector:
    matchLabels:
      exequatur.dev/injected: "true"
{{- end }}
{{- end }}

{{/* The way to the ledger, ours or another. */}}
{{- define "exequatur.toLedger" -}}
{{- if .Values.ledger.enabled -}}
- to: {{- include "exequatur.partPeer" (list . "ledger") | nindent 4 }}
  ports: {{- include "exequatur.ports" (list 7071) | nindent 4 }}
{{- else -}}
{{ include "exequatur.places" .Values.networkPolicy.ledger | trim }}
{{- end -}}
{{- end }}

{{/* The way to those who resolve names. */}}
{{- define "exequatur.toDns" -}}
{{- range .Values.networkPolicy.dns }}
- to: {{- include "exequatur.peers" (list .) | nindent 4 }}
  ports:
    {{- range .ports | default (list 53) }}
    - protocol: UDP
      port: {{ . }}
    - protocol: TCP
      port: {{ . }}
    {{- end }}
{{- end }}
{{- end }}

{{/* Who may read metrics at a port: (list . 9080) */}}
{{- define "exequatur.fromMonitoring" -}}
{{- with (index . 0).Values.networkPolicy.monitoring -}}
- from: {{- include "exequatur.peers" . | nindent 4 }}
  ports: {{- include "exequatur.ports" (list (index $ 1)) | nindent 4 }}
{{- end }}
{{- end }}
