package store

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPodRecord(t *testing.T) {
	p := &Pod{Name: ObjectName{"shop", "web-1"}, Node: "n1", Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd00::5")},
		Labels: map[string]string{"b": "2", "a": "1"}, Ports: []PodPort{{"http", TCP, 8080}}, Ready: true}
	value, err := p.Value()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"addresses":["10.244.1.5","fd00::5"],"labels":{"a":"1","b":"2"},"ports":[{"name":"http","protocol":"TCP","port":8080}],"ready":true}`
	if string(value) != want {
		t.Errorf("have %s\nwant %s", value, want)
	}
	have, err := DecodePod(p.Key(), value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, have, comparable); diff != "" || !p.Equal(have) {
		t.Error(diff)
	}
	if later, err := DecodePod(p.Key(), []byte(`{"addresses":["10.244.1.5"],"mood":"good"}`)); err != nil || later.Ready {
		t.Errorf("a later version's record: %+v, %v", later, err)
	}
}

func TestPodRecordErrors(t *testing.T) {
	for name, test := range map[string]struct{ value, want string }{
		"empty":           {``, "no JSON object"},
		"null":            {`null`, "no JSON object"},
		"cut off":         {`{"addresses":`, "cannot be read"},
		"no address":      {`{"addresses":["x"]}`, "cannot be read"},
		"empty address":   {`{"addresses":[""]}`, "not one of a pod"},
		"loopback":        {`{"addresses":["127.0.0.1"]}`, "not one of a pod"},
		"zone":            {`{"addresses":["fe80::1%eth0"]}`, "not one of a pod"},
		"two of a family": {`{"addresses":["10.0.0.1","::ffff:10.0.0.2"]}`, "more than one"},
		"protocol":        {`{"ports":[{"name":"a","protocol":"tcp","port":1}]}`, "no named port"},
		"port":            {`{"ports":[{"name":"a","protocol":"TCP","port":70000}]}`, "cannot be read"},
		"too long":        {"{" + strings.Repeat(" ", MaxPodSize), "are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := DecodePod(PodKey{"n1", ObjectName{"a", "b"}}, []byte(test.value))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "a/b") || p != nil {
				t.Errorf("have %+v, %v, want an error with %q", p, err, test.want)
			}
		})
	}
}

func FuzzDecodePod(f *testing.F) {
	f.Add([]byte(`{"addresses":["10.244.1.5","fd00::5"],"labels":{"a":"1"},"ports":[{"name":"http","protocol":"TCP","port":8080}],"ready":true}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		key := PodKey{"n1", ObjectName{"a", "b"}}
		p, err := DecodePod(key, value)
		if err != nil {
			return
		}
		text, err := p.Value()
		if err != nil {
			return // a valid record can grow beyond the limit when it is written in full
		}
		if again, err := DecodePod(key, text); err != nil || !again.Equal(p) {
			t.Errorf("%s reads as %+v, %v", text, again, err)
		}
	})
}
