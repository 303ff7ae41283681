package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithLabels(t *testing.T) {
	tests := []struct {
		name, list string
		labels     map[string]string
		want       string
	}{
		{"none", `{"plugins": [{"type":"twill"}]}`, nil, `{"plugins": [{"type":"twill"}]}`},
		{"ours alone", `{"name":"x","plugins":[{"type":"twill"},{"type":"portmap"}]}`, map[string]string{"b": "2", "a": "1"},
			`{"name":"x","plugins":[{"args":{"cni":{"labels":[{"key":"a","value":"1"},{"key":"b","value":"2"}]}},"type":"twill"},{"type":"portmap"}]}`},
		{"other args stay", `{"plugins":[{"args":{"cni":{"mac":"x"},"y":1},"type":"twill"}]}`, map[string]string{"a": "1"},
			`{"plugins":[{"args":{"cni":{"labels":[{"key":"a","value":"1"}],"mac":"x"},"y":1},"type":"twill"}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := withLabels([]byte(test.list), test.labels)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(have)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := withLabels([]byte("{"), map[string]string{"a": "b"}); err == nil {
		t.Error("no error")
	}
}
