package gauge

import (
	"slices"
	"time"
)

const (
	// windowSize is how many outcomes are kept of a peer.
	windowSize = 20
	// downAfter is how many questions in a row without an answer make a peer one that is not reached.
	downAfter = 3
)

// State is how a peer is.
type State string

// The states.
const (
	Unknown State = "unknown" // too little was asked so far
	Up      State = "up"
	Down    State = "down"   // it answered once, and did not the last three times
	Silent  State = "silent" // it never answered: it may be away, or something between may keep the questions back
)

// window are the last outcomes of a peer: round-trip times, and 0 for no answer.
type window struct {
	ring     [windowSize]time.Duration
	asked    int // ever
	missed   int // in a row, at the end
	answered bool
	figures  sum // of the ring: they are looked at more often than it changes
}

// add takes in an outcome; rtt is 0 when no answer came.
func (w *window) add(rtt time.Duration) {
	w.ring[w.asked%windowSize] = rtt
	w.asked++
	w.missed++
	if rtt > 0 {
		w.missed, w.answered = 0, true
	}
	w.figures = w.count()
}

func (w *window) state() State {
	switch {
	case w.missed >= downAfter && w.answered:
		return Down
	case w.missed >= downAfter:
		return Silent
	case w.answered:
		return Up
	}
	return Unknown
}

// sum is a window in figures.
type sum struct {
	asked, lost           int
	least, median, latest time.Duration // 0: none
}

func (s sum) loss() float64 {
	if s.asked == 0 {
		return 0
	}
	return float64(s.lost) / float64(s.asked)
}

// sum returns the window in figures.
func (w *window) sum() sum { return w.figures }

func (w *window) count() (s sum) {
	s.asked = min(w.asked, windowSize)
	rtts := make([]time.Duration, 0, windowSize)
	for i := range s.asked {
		if rtt := w.ring[(w.asked-s.asked+i)%windowSize]; rtt > 0 {
			rtts = append(rtts, rtt)
			s.latest = rtt
		}
	}
	s.lost = s.asked - len(rtts)
	if len(rtts) > 0 {
		slices.Sort(rtts)
		s.least, s.median = rtts[0], rtts[len(rtts)/2]
	}
	return s
}
