package page

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/twill-cni/twill/ctl/lab"
)

// patience is how long a change may take to be on the page; it is seconds.
const patience = 90 * time.Second

const pageAddress = "127.0.0.1:10280" // in each node's namespace

// forward lets programs of this machine reach a node's page, as an operator does with `ssh -L`, and returns where.
func forward(t *testing.T, n *lab.Node) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go pass(n, near)
		}
	}()
	return l.Addr().String()
}

func pass(n *lab.Node, near net.Conn) {
	defer near.Close()
	var far net.Conn
	err := n.Do(func() (err error) {
		far, err = net.Dial("tcp", pageAddress)
		return err
	})
	if err != nil {
		return
	}
	defer far.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}

// browser shows a page. What goes wrong in it (an exception, something that the page's own Content-Security-Policy refuses) fails the test.
type browser struct {
	ctx context.Context

	mu     sync.Mutex
	amiss  []string
	expect string // of messages with this text it is known that they come
}

func open(t *testing.T, url string) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 1000),
		chromedp.WSURLReadTimeout(patience))
	allocated, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(allocated)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil { // waits until the browser has ended
			t.Errorf("end the browser: %v", err)
		}
	})
	b := &browser{ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.amiss = append(b.amiss, e.ExceptionDetails.Error())
		case *cdplog.EventEntryAdded:
			b.amiss = append(b.amiss, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	})
	if err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	return b
}

// run does something on the page.
func (b *browser) run(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// until waits for an expression to be true; meanwhile is done before each look.
func (b *browser) until(t *testing.T, what, expression string, meanwhile ...func()) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		for _, do := range meanwhile {
			do()
		}
		var is bool
		if err := chromedp.Run(b.ctx, chromedp.Evaluate("Boolean("+expression+")", &is)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if is {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			var text string
			_ = chromedp.Run(b.ctx, chromedp.Evaluate("document.body.innerText", &text))
			t.Fatalf("not in time: %s; the page says:\n%s", what, text)
		}
	}
}

// wellBehaved fails the test when anything went wrong in the page.
func (b *browser) wellBehaved(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.amiss {
		if b.expect == "" || !strings.Contains(text, b.expect) {
			t.Errorf("in the page: %s", text)
		}
	}
}

// picture writes what the page looks like to a file, when the environment names a directory for that.
func (b *browser) picture(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("TWILL_PICTURES")
	if dir == "" {
		return
	}
	var png []byte
	b.run(t, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(dir+"/"+name+".png", png, 0o644); err != nil {
		t.Fatal(err)
	}
}
