package hostfile

import "testing"

func FuzzParseTypes(f *testing.F) {
	f.Add([]byte(`{"type":"bridge"}`))
	f.Add([]byte(`{"plugins":[{"type":"twill"},{"type":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		types, err := parseTypes(data)
		for _, name := range types {
			if name == "" || err != nil {
				t.Errorf("types %q, error %v", types, err)
			}
		}
	})
}
