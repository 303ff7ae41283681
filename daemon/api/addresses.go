package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"
)

// Addresses is what is asked about the addresses of a node's pods.
type Addresses interface {
	// Addresses returns who has which.
	Addresses(ctx context.Context) (*AddressReport, error)
	// ReleaseDead has the daemon look for dead pods now, whose addresses it releases when they are still dead after AddressReport.ReleaseDelay.
	ReleaseDead()
}

// AddressReport says who has the addresses of a node.
type AddressReport struct {
	Node   string         `json:"node"`
	Ranges []RangeUse     `json:"ranges"`
	Leases []AddressLease `json:"leases"`
	// Unleased are attachments with addresses of which there is no lease.
	Unleased     []AddressLease `json:"unleased,omitempty"`
	ReleaseDelay float64        `json:"releaseDelaySeconds"` // for how long a pod has to be dead
}

// AddressLease is a pod's hold on addresses.
type AddressLease struct {
	Container string       `json:"container"`
	Interface string       `json:"interface"`
	Pod       string       `json:"pod,omitempty"` // NAMESPACE/NAME, where the runtime said it
	Addresses []netip.Addr `json:"addresses"`
	Outside   bool         `json:"outside,omitempty"` // one of them is in none of the node's ranges
	Created   time.Time    `json:"created,omitzero"`
	Netns     string       `json:"netns,omitempty"`
	NetnsGone bool         `json:"netnsGone,omitempty"` // it is not there any more, or is another one
	Attached  bool         `json:"attached"`            // there is a record of its attachment
}

func (a About) handleAddresses(mux *http.ServeMux) {
	if a.Addresses == nil {
		return
	}
	mux.HandleFunc("GET /addresses", func(w http.ResponseWriter, r *http.Request) {
		report, err := a.Addresses.Addresses(r.Context())
		Answer(w, report, err)
	})
	mux.HandleFunc("POST /addresses/release-dead", func(w http.ResponseWriter, _ *http.Request) {
		a.Addresses.ReleaseDead()
		Answer(w, struct{}{}, nil)
	})
}

// Addresses returns who has the addresses of the daemon's node.
func (c *Client) Addresses(ctx context.Context) (AddressReport, error) {
	return get[AddressReport](ctx, c, "/addresses", nil)
}

// ReleaseDead has the daemon look for dead pods now; see Addresses.
func (c *Client) ReleaseDead(ctx context.Context) error {
	_, err := ask[struct{}](ctx, c, http.MethodPost, "/addresses/release-dead", nil)
	return err
}
