package kubetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestManifestsAreCutIntoObjects(t *testing.T) {
	const a, b = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: c}\n"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"none", "", nil},
		{"a comment", "# nothing\n", nil},
		{"one", a, []string{"service a"}},
		{"two", a + "---\n" + b, []string{"service a", "service c/b"}},
		{"separators around", "---\n" + a + "---\n\n--- \n" + b + "---\n", []string{"service a", "service c/b"}},
		{"another line end", a + "---\r\n" + b, []string{"service a", "service c/b"}},
		{"dashes in a text", a + "data:\n  text: |\n    ---\n", []string{"service a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := objects(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range all {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
