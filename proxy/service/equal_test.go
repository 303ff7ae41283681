package service_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// full returns a Service in which every field is set.
func full() *service.Service {
	s := service.Resolve(web(balanced, externalLocal, func(s *store.Service) {
		s.HealthCheckNodePort, s.AffinityTimeout, s.Scheduler = 32000, time.Hour, "mh"
		s.SourceRanges = prefixes("198.51.100.0/24")
	}), sliceList{pods("10.244.1.5", "10.244.2.5")}, testNode())
	s.Frontends = s.Frontends[2:]
	s.Frontends[0].Draining = []netip.AddrPort{netip.MustParseAddrPort("10.244.3.5:8080")}
	return s
}

// Whatever field of whatever part changes, the whole is not equal any more.
func TestEqual(t *testing.T) {
	if !full().Equal(full()) || !(*service.Service)(nil).Equal(nil) || full().Equal(nil) || (*service.Service)(nil).Equal(full()) {
		t.Error("the same should be equal, and nothing but nil equals nil")
	}
	moved := full()
	moved.Created = moved.Created.In(time.FixedZone("east", 3600))
	if !moved.Equal(full()) {
		t.Error("the same time elsewhere is the same time")
	}
	seen := 0
	for i := 0; ; i++ {
		s := full()
		what, ok := mutate(reflect.ValueOf(s).Elem(), "Service", &i, new(int))
		if !ok {
			break
		}
		seen++
		if s.Equal(full()) {
			t.Errorf("%s differs, and Equal does not see it", what)
		}
	}
	if seen < 25 {
		t.Errorf("only %d fields were changed", seen)
	}
}

// mutate changes the leaf number *at of v, and names it; at counts leaves in the order of a walk.
func mutate(v reflect.Value, path string, at, count *int) (string, bool) {
	leaf := func(change func()) (string, bool) {
		*count++
		if *count-1 != *at {
			return "", false
		}
		change()
		return path, true
	}
	switch value := v.Interface().(type) {
	case netip.Addr:
		return leaf(func() { v.Set(reflect.ValueOf(value.Next())) })
	case netip.AddrPort:
		return leaf(func() { v.Set(reflect.ValueOf(netip.AddrPortFrom(value.Addr(), value.Port()+1))) })
	case netip.Prefix:
		return leaf(func() { v.Set(reflect.ValueOf(netip.PrefixFrom(value.Addr(), value.Bits()-1))) })
	case time.Time:
		return leaf(func() { v.Set(reflect.ValueOf(value.Add(time.Second))) })
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if what, ok := mutate(v.Field(i), path+"."+v.Type().Field(i).Name, at, count); ok {
				return what, true
			}
		}
	case reflect.Pointer:
		if what, ok := mutate(v.Elem(), path, at, count); ok {
			return what, true
		}
		return leaf(func() { v.SetZero() })
	case reflect.Slice:
		for i := range v.Len() {
			if what, ok := mutate(v.Index(i), fmt.Sprintf("%s[%d]", path, i), at, count); ok {
				return what, true
			}
		}
		return leaf(func() { v.SetZero() })
	case reflect.String:
		return leaf(func() { v.SetString(v.String() + "x") })
	case reflect.Bool:
		return leaf(func() { v.SetBool(!v.Bool()) })
	case reflect.Int, reflect.Int64:
		return leaf(func() { v.SetInt(v.Int() + 1) })
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return leaf(func() { v.SetUint(v.Uint() + 1) })
	default:
		panic("cannot change " + path)
	}
	return "", false
}
