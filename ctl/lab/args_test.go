package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/plugins/netconf"
)

func TestWithArgs(t *testing.T) {
	http := []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}}
	tests := []struct {
		name, list string
		labels     map[string]string
		ports      []netconf.PodPort
		want       string
	}{
		{"none", `{"plugins": [{"type":"twill"}]}`, nil, nil, `{"plugins": [{"type":"twill"}]}`},
		{"ours alone", `{"name":"x","plugins":[{"type":"twill"},{"type":"portmap"}]}`, map[string]string{"b": "2", "a": "1"}, nil,
			`{"name":"x","plugins":[{"args":{"cni":{"labels":[{"key":"a","value":"1"},{"key":"b","value":"2"}]}},"type":"twill"},{"type":"portmap"}]}`},
		{"ports", `{"plugins":[{"type":"twill"}]}`, nil, append(http, netconf.PodPort{Name: "dns", ContainerPort: 53, Protocol: netconf.UDP}),
			`{"plugins":[{"args":{"cni":{"ports":[{"name":"http","containerPort":8080,"protocol":"tcp"},{"name":"dns","containerPort":53,"protocol":"udp"}]}},"type":"twill"}]}`},
		{"other args stay", `{"plugins":[{"args":{"cni":{"mac":"x"},"y":1},"type":"twill"}]}`, map[string]string{"a": "1"}, http,
			`{"plugins":[{"args":{"cni":{"labels":[{"key":"a","value":"1"}],"mac":"x","ports":[{"name":"http","containerPort":8080,"protocol":"tcp"}]},"y":1},"type":"twill"}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := withArgs([]byte(test.list), test.labels, test.ports)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(have)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := withArgs([]byte("{"), map[string]string{"a": "b"}, nil); err == nil {
		t.Error("no error")
	}
}
