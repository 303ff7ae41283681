package nft

import (
	"testing"
)

func TestPrint(t *testing.T) {
	h, log := open(t)
	syncTables(t, h, everything())
	t.Log(nft(t, "list", "table", "inet", "twill-test"))
	t.Log(log.String())
	h2, log2 := openHere(t)
	syncTables(t, h2, everything())
	t.Log(log2.String())
}
