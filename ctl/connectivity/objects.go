package connectivity

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store/manifest"
)

// Namespace is that of the test's pods, Services and policies: nobody else's pods are selected.
const Namespace = "twill-connectivity"

// Labels of the test's pods.
const (
	podLabel  = Namespace + "/pod"
	roleLabel = Namespace + "/role"
)

// Labels returns those of a pod, by which Services and policies select it.
func Labels(name string, role Role) map[string]string {
	return map[string]string{podLabel: name, roleLabel: string(role)}
}

const serviceText = `---
apiVersion: v1
kind: Service
metadata: {name: %[1]q, namespace: %[2]s}
spec:
  type: %[6]s
  ipFamilyPolicy: PreferDualStack
  selector: {%[3]s: %[1]q}
  ports:
  - {name: tcp, port: %[4]d, targetPort: %[5]d, protocol: TCP}
  - {name: udp, port: %[4]d, targetPort: %[5]d, protocol: UDP}
`

// Services are those of the pods: each has its own, of the same name. Those of the role server have node ports, too, which the cluster chooses: it knows what is free.
func Services(pods []Pod) ([]manifest.Document, error) {
	var text strings.Builder
	for _, p := range pods {
		kind := corev1.ServiceTypeClusterIP
		if p.Role == Server {
			kind = corev1.ServiceTypeNodePort
		}
		fmt.Fprintf(&text, serviceText, p.Name, Namespace, podLabel, ServicePort, Port, kind)
	}
	return manifest.Parse([]byte(text.String()))
}

const policiesText = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {%[2]s: server}}
  policyTypes: [Ingress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open-to-clients, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {%[2]s: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {%[2]s: client}}}]
    ports: [{port: %[3]d, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients-ask, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {%[2]s: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {}}]
    ports: [{port: %[3]d, protocol: TCP}]
  - to: [{podSelector: {matchLabels: {%[2]s: server}}}]
    ports: [{port: %[4]d, protocol: TCP}]
  - ports: [{port: %[5]d, protocol: UDP}, {port: %[5]d, protocol: TCP}]
`

// Policies close the pods of the role server for all but those of the role client, on one port. Those of the role client may ask pods of the test on that port, servers on the
// closed port, too (which is closed there), and everybody for names.
func Policies() ([]manifest.Document, error) {
	return manifest.Parse(fmt.Appendf(nil, policiesText, Namespace, roleLabel, Port, ClosedPort, namesPort))
}
