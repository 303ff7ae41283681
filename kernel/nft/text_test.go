package nft

import (
	"strings"
	"testing"
)

// Twill's tables are told with rules, elements and comments; those of others are not.
func TestText(t *testing.T) {
	h, _ := open(t)
	if text, err := h.Text(t.Context(), 10); text != "" || err != nil {
		t.Errorf("of nothing: %q, error %v", text, err)
	}
	nftScript(t, `
table ip other { chain c { drop; }; }
table inet twill-a {
  set networks { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.1 comment "one" }; }
  set many { type inet_service; elements = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }; }
  map to { type ipv4_addr . inet_service : verdict; elements = { 10.0.0.1 . 80 : jump other, 10.0.0.2 . 81 : drop }; }
  chain other { counter accept comment "all of it"; }
  chain forward { type filter hook forward priority -5; policy drop; ip saddr @networks meta mark 7 jump other; ip daddr . tcp dport vmap @to; reject with tcp reset; }
}
`)
	text, err := h.Text(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"table inet twill-a {\n", "    10.0.0.0 - 10.255.255.255\n", "    192.0.2.1 # one\n", "set many { # 12 elements\n", "    10\n    # and 2 more\n",
		"    10.0.0.1 . 80 : jump other\n", "    10.0.0.2 . 81 : drop\n", "immediate(dreg=0 data=accept) # all of it\n",
		"type filter hook 2 priority -5 policy drop\n", "lookup(set=networks sreg=1", "data=jump other)", "lookup(set=to ", "reject(type=1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "table ip other") {
		t.Errorf("another's table is told:\n%s", text)
	}
}
