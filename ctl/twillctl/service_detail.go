package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/proxy/dnat"
)

// printService prints all that is known of one Service.
func printService(w io.Writer, r *dnat.Report, wide bool) error {
	for _, s := range r.Services {
		if err := printFrontends(w, s); err != nil {
			return err
		}
		if err := printSlots(w, s, wide); err != nil {
			return err
		}
		if err := printClients(w, s); err != nil {
			return err
		}
		for _, warning := range s.Warnings {
			if _, err := fmt.Fprintf(w, "\nwarning: %s\n", warning); err != nil {
				return err
			}
		}
	}
	return printDifferences(w, r.Differences)
}

func printFrontends(w io.Writer, s dnat.ServiceState) error {
	fmt.Fprintf(w, "Service %s/%s\n\n", s.Namespace, s.Name) // an error shows with the table
	return printTable(w, func(row func(cells ...any)) {
		row("ADDRESS", "PORT NAME", "KIND", "SCHEDULER", "MASQUERADE", "AFFINITY", "CLIENTS", "HITS", "PLAN")
		for _, f := range s.Frontends {
			row(frontendText(f), dash(f.PortName), f.Kind, f.Scheduler, f.Masquerade, affinityText(f), rangesText(f), f.Hits, planText(f))
		}
	})
}

// share is an endpoint with the slots that it has.
type share struct {
	slot  dnat.SlotState // the first of them
	slots []string
}

// sharesOf gathers slots by endpoint, in the order in which endpoints come.
func sharesOf(all []dnat.SlotState) []*share {
	var out []*share
	byEndpoint := map[netip.AddrPort]*share{}
	for _, s := range all {
		of := byEndpoint[s.Endpoint]
		if of == nil {
			of = &share{slot: s}
			byEndpoint[s.Endpoint] = of
			out = append(out, of)
		}
		of.slots = append(of.slots, fmt.Sprint(s.Slot))
	}
	return out
}

// fewSlots is up to how many slots are listed by number.
const fewSlots = 8

func printSlots(w io.Writer, s dnat.ServiceState, wide bool) error {
	fmt.Fprintln(w) // an error shows with the table
	return printTable(w, func(row func(cells ...any)) {
		row("FRONTEND", "ENDPOINT", "NODE", "WEIGHT", "SLOTS")
		for _, f := range s.Frontends {
			for _, part := range []struct {
				name  string
				slots []dnat.SlotState
			}{{frontendText(f), f.Slots}, {frontendText(f) + " (inside)", f.InsideSlots}} {
				for _, of := range sharesOf(part.slots) {
					list := strings.Join(of.slots, ",")
					if len(of.slots) > fewSlots && !wide {
						list = fmt.Sprintf("%d of %d", len(of.slots), len(part.slots))
					}
					row(part.name, endpointText(of.slot), nodeText(of.slot), number(int(of.slot.Weight)), list)
				}
			}
		}
	})
}

func printClients(w io.Writer, s dnat.ServiceState) error {
	if !slices.ContainsFunc(s.Frontends, func(f dnat.FrontendState) bool { return len(f.Clients) > 0 }) {
		return nil
	}
	fmt.Fprintln(w) // an error shows with the table
	return printTable(w, func(row func(cells ...any)) {
		row("CLIENT", "FRONTEND", "ENDPOINT", "LEFT")
		for _, f := range s.Frontends {
			for _, c := range f.Clients {
				endpoint := "(gone)"
				if c.Endpoint.IsValid() {
					endpoint = c.Endpoint.String()
				}
				row(c.Client, frontendText(f), endpoint, time.Duration(c.Left*float64(time.Second)).Truncate(time.Second))
			}
		}
	})
}

func frontendText(f dnat.FrontendState) string {
	return netip.AddrPortFrom(f.Address, f.Port).String() + "/" + f.Protocol
}

func endpointText(s dnat.SlotState) string {
	if !s.Endpoint.IsValid() {
		return "(missing)"
	}
	return s.Endpoint.String()
}

func nodeText(s dnat.SlotState) string {
	switch {
	case !s.Endpoint.IsValid():
		return "-"
	case s.Weight == 0:
		return "not of this Service"
	case s.Local:
		return "this"
	}
	return "other"
}

func affinityText(f dnat.FrontendState) string {
	if f.Affinity == 0 {
		return "-"
	}
	return (time.Duration(f.Affinity) * time.Second).String()
}

// rangesText says which clients are let in.
func rangesText(f dnat.FrontendState) string {
	if f.SourceRanges == nil {
		return "all"
	}
	var all []string
	for _, p := range f.SourceRanges {
		all = append(all, p.String())
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ",")
}

func planText(f dnat.FrontendState) string {
	if f.Plan == "" {
		return "(missing)"
	}
	if f.InsidePlan != "" {
		return f.Plan + ", " + f.InsidePlan
	}
	return f.Plan
}
