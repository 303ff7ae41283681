package harness

import (
	"testing"
	"time"
)

// Must ends the test when err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Within polls a condition until it returns nil, and returns how long that took. It ends the test when that takes longer than limit.
func Within(t testing.TB, limit time.Duration, condition func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := condition()
		took := time.Since(begin)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
