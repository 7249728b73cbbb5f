{{/*
Names, identities and what every pod of ours has in common. Nothing here is random, looked up or dated: the same values
give the same bytes.
*/}}

{{- define "exequatur.name" -}}
{{- if .Values.nameOverride }}{{ .Values.nameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* A part's name: (list . "pdp") */}}
{{- define "exequatur.part" -}}
{{ include "exequatur.name" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{- define "exequatur.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: exequatur
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* An object's labels, ours above all: (list . "pdp"), or with further ones, (list . "pdp" {...}) */}}
{{- define "exequatur.labels" -}}
{{- $root := index . 0 -}}
{{- $ours := dict "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "exequatur" "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) -}}
{{- $further := gt (len .) 2 | ternary (last .) dict -}}
{{ mergeOverwrite (dict) $root.Values.commonLabels $further $ours (include "exequatur.selector" . | fromYaml) | toYaml }}
{{- end }}

{{/* What values say of a part's pods, its own above what is said of all; JSON: (list . "pdp") */}}
{{- define "exequatur.pods" -}}
{{- $values := (index . 0).Values -}}
{{- $all := dict -}}
{{- range $said := list $values.pods (get $values (index . 1)).pods -}}
{{- range $name, $value := $said }}{{ $_ := set $all $name $value }}{{ end -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}

{{/* The metadata of a part's pods: (list . "pdp"), or with an annotation of ours, (list . "pdp" {...}) */}}
{{- define "exequatur.podMetadata" -}}
{{- $pods := include "exequatur.pods" . | fromJson -}}
labels: {{- include "exequatur.labels" (list (index . 0) (index . 1) $pods.labels) | nindent 2 }}
{{- with mergeOverwrite (dict) $pods.annotations (gt (len .) 2 | ternary (last .) dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An object's metadata: (list . "pdp"), or with further labels, (list . "pdp" {...}) */}}
{{- define "exequatur.metadata" -}}
name: {{ include "exequatur.part" . }}
namespace: {{ (index . 0).Release.Namespace | quote }}
labels: {{- include "exequatur.labels" . | nindent 2 }}
{{- end }}

{{/* An agent's name as objects may have it: as it is, or, where it is no DNS label, like it and told apart by its digest. */}}
{{- define "exequatur.objectName" -}}
{{- if regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" . -}}
{{ . }}
{{- else -}}
{{ . | lower | replace "_" "-" | replace "." "-" }}-{{ sha256sum . | trunc 8 }}
{{- end -}}
{{- end }}

{{- define "exequatur.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .tag }}:{{ .tag }}{{ end }}{{ if .digest }}@{{ .digest }}{{ end }}
{{- end }}
{{- end }}

{{/* A SPIFFE ID: (list . "namespace/serviceaccount") */}}
{{- define "exequatur.identity" -}}
{{- $at := splitList "/" (index . 1) -}}
spiffe://{{ (index . 0).Values.trustDomain }}/ns/{{ index $at 0 }}/sa/{{ index $at 1 }}
{{- end }}

{{/* A part's SPIFFE ID: (list . "pdp") */}}
{{- define "exequatur.partIdentity" -}}
{{- $root := index . 0 -}}
{{ include "exequatur.identity" (list $root (printf "%s/%s" $root.Release.Namespace (include "exequatur.part" .))) }}
{{- end }}

{{/* The service accounts of all agents, NAMESPACE/SERVICEACCOUNT, each once, in order; JSON. */}}
{{- define "exequatur.accounts" -}}
{{- $all := list -}}
{{- range .Values.agents }}{{ $all = concat $all .serviceAccounts }}{{ end -}}
{{- $all | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* The namespaces of all agents, each once, in order; JSON. */}}
{{- define "exequatur.namespaces" -}}
{{- $all := list -}}
{{- range (include "exequatur.accounts" . | fromJsonArray) }}{{ $all = append $all (splitList "/" . | first) }}{{ end -}}
{{- $all | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* What is enforced as the decision point knows it, IDENTITY@KIND of a door; JSON. */}}
{{- define "exequatur.enforced" -}}
{{- $all := list -}}
{{- range $agent := .Values.agents -}}
{{- range $door := $agent.doors -}}
{{- if and $door.enforced (eq $door.kind "mcp") -}}
{{- range $agent.serviceAccounts }}{{ $all = append $all (printf "%s@mcp_stdio" (include "exequatur.identity" (list $ .))) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $all | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* Where a part is called: HOST:PORT */}}
{{- define "exequatur.pdp.address" -}}
{{ include "exequatur.part" (list . "pdp") }}.{{ .Release.Namespace }}.svc:7070
{{- end }}

{{- define "exequatur.ledger.address" -}}
{{- if .Values.ledger.enabled -}}
{{ include "exequatur.part" (list . "ledger") }}.{{ .Release.Namespace }}.svc:7071
{{- else -}}
{{ .Values.ledger.address }}
{{- end -}}
{{- end }}

{{/* The names that a part's certificate has beside its identity: (list . "pdp") */}}
{{- define "exequatur.dnsNames" -}}
{{- $host := printf "%s.%s" (include "exequatur.part" .) (index . 0).Release.Namespace -}}
- {{ $host }}.svc
- {{ $host }}.svc.cluster.local
{{- end }}

{{/* The Secret with a part's certificate: (list . "pdp") */}}
{{- define "exequatur.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- if eq $root.Values.certificates.source "certManager" -}}
{{ include "exequatur.part" . }}-tls
{{- else -}}
{{ get $root.Values.certificates.secrets (index . 1) }}
{{- end -}}
{{- end }}

{{- define "exequatur.postgresql" -}}
{{- if eq .Values.pdp.store.kind "postgresql" }}true{{ end -}}
{{- end }}

{{/* What holds for each of our pods: (list . "pdp") */}}
{{- define "exequatur.pod" -}}
serviceAccountName: {{ include "exequatur.part" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with (index . 0).Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- $pods := include "exequatur.pods" . | fromJson }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $pods $name }}
{{ dict $name . | toYaml }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 64113
  runAsGroup: 64113
  fsGroup: 64113
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* What holds for each of our containers: (list . "pdp") */}}
{{- define "exequatur.container" -}}
{{- $root := index . 0 -}}
image: {{ include "exequatur.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  runAsNonRoot: true
  runAsUser: 64113
  runAsGroup: 64113
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Over zones, then nodes, each revision for itself: (list . "pdp" "required") */}}
{{- define "exequatur.spread" -}}
{{- $me := . -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . | quote }}
  whenUnsatisfiable: {{ eq (index $me 2) "required" | ternary "DoNotSchedule" "ScheduleAnyway" }}
  labelSelector:
    matchLabels: {{- include "exequatur.selector" $me | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* Probes by gRPC's health protocol, on the port for that alone; dead and not ready are two questions. */}}
{{- define "exequatur.probes" -}}
startupProbe:
  grpc:
    port: {{ .port }}
    service: live
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ .starts }}
livenessProbe:
  grpc:
    port: {{ .port }}
    service: live
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc:
    port: {{ .port }}
    service: ready
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Keep answering while others still send: what stops is taken off their lists a moment later. */}}
{{- define "exequatur.preStop" -}}
{{- if .preStopSeconds -}}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .preStopSeconds }}
{{- end }}
{{- end }}

{{/* A container's resources; a limit that was taken out (with the risk accepted) is not there. */}}
{{- define "exequatur.resources" -}}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}

{{/* The addresses of a Service of ours. */}}
{{- define "exequatur.families" -}}
{{- with .Values.services.ipFamilyPolicy }}
ipFamilyPolicy: {{ . | quote }}
{{- end }}
{{- with .Values.services.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{/* A quantity in KiB: "10Gi" */}}
{{- define "exequatur.kibibytes" -}}
{{- $units := dict "Ki" 1 "Mi" 1024 "Gi" 1048576 "Ti" 1073741824 -}}
{{ mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[KMGT]i$" .)) }}
{{- end }}

{{/* A volume claim's specification: {size, storageClassName} */}}
{{- define "exequatur.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClassName }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end }}
