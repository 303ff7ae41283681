package service

import "slices"

// Equal reports whether both say the same, in every field. Either may be nil.
func (s *Service) Equal(o *Service) bool {
	if s == o || s == nil || o == nil {
		return s == o
	}
	return s.Name == o.Name && s.Created.Equal(o.Created) &&
		equalPointers(s.HealthCheck, o.HealthCheck) &&
		slices.Equal(s.Addrs, o.Addrs) && slices.Equal(s.Warnings, o.Warnings) &&
		slices.EqualFunc(s.Frontends, o.Frontends, func(a, b Frontend) bool { return a.equal(&b) })
}

func (f *Frontend) equal(o *Frontend) bool {
	return f.FrontendKey == o.FrontendKey && f.Kind == o.Kind && f.PortName == o.PortName &&
		f.Masquerade == o.Masquerade && f.Empty == o.Empty && f.Affinity == o.Affinity && f.Scheduler == o.Scheduler &&
		f.ResetConnections == o.ResetConnections && slices.Equal(f.Draining, o.Draining) &&
		same(f.Endpoints, o.Endpoints) && f.Inside.equal(o.Inside) &&
		(f.Allowed == nil) == (o.Allowed == nil) && slices.Equal(f.Allowed, o.Allowed)
}

func (b *Backends) equal(o *Backends) bool {
	if b == o || b == nil || o == nil {
		return b == o
	}
	return b.Empty == o.Empty && same(b.Endpoints, o.Endpoints)
}

// same reports whether a and b hold the same endpoints. It does not look at them if they are one slice.
func same(a, b []Endpoint) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func equalPointers[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
