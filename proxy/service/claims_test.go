package service_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// A claim is a Service of TCP port 80 (and node port 30080, if it has node ports) made so many hours after the epoch.
type claim struct {
	name      string
	hours     int
	clusterIP string
	external  []string
	nodePort  bool
}

func (c claim) resolve() *service.Service {
	s := web(func(s *store.Service) {
		s.Name, s.Created = objectName(c.name), epoch.Add(time.Duration(c.hours)*time.Hour)
		s.ClusterIPs, s.ExternalIPs = addrs(c.clusterIP), addrs(c.external...)
		if c.nodePort {
			s.Type, s.Ports[0].NodePort = store.ServiceNodePort, 80
		}
	})
	return service.Resolve(s, sliceList{pods("10.244.1.5")}, testNode())
}

// held writes what Services have: a line for each frontend and warning, and for the addresses that are announced.
func held(all []*service.Service) []string {
	var lines []string
	for _, s := range all {
		for _, f := range s.Frontends {
			lines = append(lines, s.Name.Name+" has "+f.FrontendKey.String())
		}
		for _, a := range s.Addrs {
			lines = append(lines, s.Name.Name+" announces "+a.Addr.String())
		}
		for _, w := range s.Warnings {
			lines = append(lines, s.Name.Name+" "+w)
		}
	}
	return lines
}

func TestClaims(t *testing.T) {
	const vip = "198.51.100.1"
	for _, c := range []struct {
		name   string
		claims []claim
		want   []string
	}{
		{
			name:   "the older has it",
			claims: []claim{{"a", 2, "10.96.0.1", []string{vip}, false}, {"b", 1, "10.96.0.2", []string{vip}, false}},
			want: []string{
				"a has TCP 10.96.0.1:80", "a announces 10.96.0.1",
				"a does not answer at TCP 198.51.100.1:80: it is taken by Service shop/b, which is older",
				"b has TCP 10.96.0.2:80", "b has TCP 198.51.100.1:80", "b announces 10.96.0.2", "b announces 198.51.100.1",
			},
		},
		{
			name: "of three of one age the first by name",
			claims: []claim{
				{"c", 1, "10.96.0.3", []string{vip}, false}, {"a", 1, "10.96.0.1", []string{vip}, false}, {"b", 1, "10.96.0.2", []string{vip}, false},
			},
			want: []string{
				"a has TCP 10.96.0.1:80", "a has TCP 198.51.100.1:80", "a announces 10.96.0.1", "a announces 198.51.100.1",
				"b has TCP 10.96.0.2:80", "b announces 10.96.0.2",
				"b does not answer at TCP 198.51.100.1:80: it is taken by Service shop/a, whose name comes first",
				"c has TCP 10.96.0.3:80", "c announces 10.96.0.3",
				"c does not answer at TCP 198.51.100.1:80: it is taken by Service shop/a, whose name comes first",
			},
		},
		{
			name:   "a ClusterIP is its owner's, however young",
			claims: []claim{{"thief", 1, "10.96.0.1", []string{"10.96.0.2"}, false}, {"owner", 2, "10.96.0.2", nil, false}},
			want: []string{
				"owner has TCP 10.96.0.2:80", "owner announces 10.96.0.2",
				"thief has TCP 10.96.0.1:80", "thief announces 10.96.0.1",
				"thief does not answer at TCP 10.96.0.2:80: it is taken by Service shop/owner, to which the cluster gave it",
			},
		},
		{
			name:   "a node port is its owner's",
			claims: []claim{{"thief", 1, "10.96.0.1", []string{"192.0.2.1"}, false}, {"owner", 2, "10.96.0.2", nil, true}},
			want: []string{
				"owner has TCP 10.96.0.2:80", "owner has TCP 192.0.2.1:80", "owner announces 10.96.0.2",
				"thief has TCP 10.96.0.1:80", "thief announces 10.96.0.1",
				"thief does not answer at TCP 192.0.2.1:80: it is taken by Service shop/owner, to which the cluster gave it",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				rng.Shuffle(len(c.claims), func(i, j int) { c.claims[i], c.claims[j] = c.claims[j], c.claims[i] })
				claims := service.NewClaims()
				for _, cl := range c.claims {
					claims.Apply([]service.Change{{New: cl.resolve()}})
				}
				if diff := cmp.Diff(c.want, held(claims.All())); diff != "" {
					t.Fatalf("want -, got +:\n%s", diff)
				}
			}
		})
	}
}

// The loser gets the frontend when the winner goes, and those who are not concerned are not told.
func TestClaimsChange(t *testing.T) {
	vip := []string{"198.51.100.1"}
	older := claim{"older", 1, "10.96.0.1", vip, false}.resolve()
	younger := claim{"younger", 2, "10.96.0.2", vip, false}.resolve()
	bystander := claim{"bystander", 0, "10.96.0.3", nil, false}.resolve()
	elsewhere := claim{"older", 1, "10.96.0.1", []string{"198.51.100.2"}, false}.resolve()
	reborn := claim{"older", 3, "10.96.0.1", vip, false}.resolve()
	claims := service.NewClaims()
	for _, step := range []struct {
		name   string
		change service.Change
		told   []string // the Services, followed by the number of frontends before and after
	}{
		{"the younger comes", service.Change{New: younger}, []string{"younger 0 2"}},
		{"a bystander comes", service.Change{New: bystander}, []string{"bystander 0 1"}},
		{"the older comes and takes", service.Change{New: older}, []string{"older 0 2", "younger 2 1"}},
		{"the same again", service.Change{Old: older, New: older}, nil},
		{"the older goes elsewhere", service.Change{New: elsewhere}, []string{"older 2 2", "younger 1 2"}},
		{"and comes back", service.Change{New: older}, []string{"older 2 2", "younger 2 1"}},
		{"it is made anew, and is the younger now", service.Change{New: reborn}, []string{"older 2 1", "younger 1 2"}},
		{"the other one goes", service.Change{Old: younger}, []string{"older 1 2", "younger 2 0"}},
		{"it goes again", service.Change{Old: younger}, nil},
	} {
		var told []string
		for _, c := range claims.Apply([]service.Change{step.change}) {
			name, was, now := "", 0, 0
			if c.Old != nil {
				name, was = c.Old.Name.Name, len(c.Old.Frontends)
			}
			if c.New != nil {
				name, now = c.New.Name.Name, len(c.New.Frontends)
			}
			told = append(told, name+" "+string(rune('0'+was))+" "+string(rune('0'+now)))
		}
		if diff := cmp.Diff(step.told, told); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", step.name, diff)
		}
	}
	if changes := claims.Apply([]service.Change{{New: younger}, {Old: younger}}); len(changes) != 0 || len(claims.All()) != 2 {
		t.Errorf("one that comes and goes at once changes nothing, but for %d Services", len(changes))
	}
	if claims.Get(objectName("younger")) != nil || claims.Get(objectName("older")) != reborn {
		t.Error("a Service that loses nothing is the one that was given, and one that went is gone")
	}
}

// naive gives frontends to Services without any memory.
func naive(claimed []*service.Service) map[service.FrontendKey]store.ObjectName {
	type holder struct {
		*service.Service
		kind service.Kind
	}
	better := func(a, b holder) bool {
		given := func(h holder) bool { return h.kind == service.ClusterIP || h.kind == service.NodePort }
		if given(a) != given(b) {
			return given(a)
		}
		if !a.Created.Equal(b.Created) {
			return a.Created.Before(b.Created)
		}
		return a.Name.Compare(b.Name) < 0
	}
	best := map[service.FrontendKey]holder{}
	for _, s := range claimed {
		for _, f := range s.Frontends {
			h := holder{s, f.Kind}
			if b, ok := best[f.FrontendKey]; !ok || better(h, b) {
				best[f.FrontendKey] = h
			}
		}
	}
	names := map[service.FrontendKey]store.ObjectName{}
	for k, h := range best {
		names[k] = h.Name
	}
	return names
}

// checkHolders compares who has what with the naive computation, and warnings with what is lost.
func checkHolders(t *testing.T, claimed, effective []*service.Service) {
	t.Helper()
	got := map[service.FrontendKey]store.ObjectName{}
	frontends := map[store.ObjectName]int{}
	for _, s := range effective {
		for _, f := range s.Frontends {
			if other, ok := got[f.FrontendKey]; ok {
				t.Fatalf("%s has two holders, %s and %s", f.FrontendKey, s.Name, other)
			}
			got[f.FrontendKey] = s.Name
		}
		frontends[s.Name] = len(s.Frontends) + len(s.Warnings)
	}
	if diff := cmp.Diff(naive(claimed), got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Fatalf("holders: want -, got +:\n%s", diff)
	}
	for _, s := range claimed {
		if frontends[s.Name] != len(s.Frontends)+len(s.Warnings) {
			t.Fatalf("%s: each lost frontend should have its warning", s.Name)
		}
	}
}
