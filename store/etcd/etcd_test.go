package etcd

import (
	"testing"

	"github.com/twill-cni/twill/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness { return newHarness(t) })
}
