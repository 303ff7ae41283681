package overlay

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name    string
		backend string
		want    Config
	}{
		{"nothing", "", Config{VNI: 1}},
		{"type alone", `{"Type":"vxlan"}`, Config{VNI: 1}},
		{"all keys", `{"Type":"vxlan","VNI":7,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true}`,
			Config{VNI: 7, Port: 4789, MTU: 9000, GBP: true, Learning: true, DirectRouting: true}},
		{"lower case, as flannel takes it", `{"type":"vxlan","vni":4096,"directRouting":true}`, Config{VNI: 4096, DirectRouting: true}},
		{"keys for Windows nodes", `{"Type":"vxlan","Name":"vxlan0","MacPrefix":"0E-2A"}`, Config{VNI: 1}},
		{"null is as good as absent", `{"VNI":null,"GBP":null}`, Config{VNI: 1}},
		{"largest values", `{"VNI":16777215,"Port":65535,"MTU":65535}`, Config{VNI: 1<<24 - 1, Port: 65535, MTU: 65535}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig(json.RawMessage(tt.backend))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	tests := []struct{ name, backend, want string }{
		{"VNI zero", `{"VNI":0}`, "network configuration: Backend.VNI: want an integer from 1 to 16777215, have 0"},
		{"VNI too large", `{"VNI":16777216}`, "network configuration: Backend.VNI: want an integer from 1 to 16777215, have 16777216"},
		{"VNI text", `{"VNI":"1"}`, `network configuration: Backend.VNI: want an integer from 1 to 16777215, have "1"`},
		{"VNI fraction", `{"VNI":1.5}`, "network configuration: Backend.VNI: want an integer from 1 to 16777215, have 1.5"},
		{"negative port", `{"Port":-1}`, "network configuration: Backend.Port: want an integer from 0 to 65535, have -1"},
		{"boolean as number", `{"GBP":1}`, "network configuration: Backend.GBP: want true or false, have 1"},
		{"unknown key", `{"VNI":1,"Prot":4789}`, "network configuration: Backend.Prot: unknown key; known are " +
			"DirectRouting, GBP, Learning, MTU, MacPrefix, Name, Port, Type, VNI"},
		{"the same key in two cases", `{"VNI":1,"vni":2}`, "network configuration: Backend.vni: given twice, also as VNI"},
		{"several errors", `{"MTU":"big","VNI":0}`, "network configuration: Backend.MTU: want an integer from 0 to 65535, have \"big\"\n" +
			"network configuration: Backend.VNI: want an integer from 1 to 16777215, have 0"},
		{"no object", `[1]`, "network configuration: Backend is no JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig(json.RawMessage(tt.backend))
			if err == nil {
				t.Fatalf("no error, got %+v", got)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1500,"GBP":false,"Learning":false,"DirectRouting":true}`))
	f.Add([]byte(`{"vni":1e3}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err == nil && (c.VNI < 1 || c.VNI > maxVNI || c.MTU < 0 || c.MTU > maxMTU) {
			t.Errorf("accepted %+v", c)
		}
	})
}
