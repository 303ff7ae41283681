package kubeends

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// mostName leaves room for a role and a number in the name of a Service, which has 63 bytes (RFC 1035).
const mostName = 40

// shorten returns, for each node, what the names of its pods and Services begin with: its own name where that can be, and else one like it.
func shorten(nodes []string) map[string]string {
	out, taken := map[string]string{}, map[string]bool{}
	for _, node := range nodes {
		if isShort(node) {
			out[node], taken[node] = node, true
		}
	}
	for i, node := range nodes {
		if isShort(node) {
			continue
		}
		base := "n-" + strings.ReplaceAll(node, ".", "-")
		base = strings.Trim(base[:min(len(base), mostName)], "-")
		name := fmt.Sprintf("%s-%d", base, i)
		for n := len(nodes); taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		out[node], taken[name] = name, true
	}
	return out
}

func isShort(node string) bool {
	return len(node) <= mostName && len(validation.IsDNS1035Label(node)) == 0
}
