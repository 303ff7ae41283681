package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/probe"
)

// late is how much longer than a question's patience its answer may take: API servers and kubelets are in between.
const late = 30 * time.Second

// Client is the asking end of a stream. Ask may be called concurrently.
type Client struct {
	Hello Hello // what the pod said of itself
	conn  io.ReadWriteCloser

	writing sync.Mutex

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan probe.Answer // of capacity 1
	ended   error                        // why the stream has ended
	over    chan struct{}                // closed when it has
}

// Dial awaits the pod's hello on a stream, which is the Client's from then on, also with an error.
func Dial(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends the read
	defer stop()
	lines := newScanner(conn)
	var first answer
	err := io.ErrUnexpectedEOF
	if lines.Scan() {
		err = json.Unmarshal(lines.Bytes(), &first)
	} else if lines.Err() != nil {
		err = lines.Err()
	}
	if err == nil && first.Hello == nil {
		err = errors.New("it does not say what it is")
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the agent: %w", err), conn.Close())
	}
	c := &Client{Hello: *first.Hello, conn: conn, waiting: map[uint64]chan probe.Answer{}, over: make(chan struct{})}
	go func() {
		for lines.Scan() {
			var a answer
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				c.end(fmt.Errorf("read an answer: %w", err))
				return
			}
			c.finish(a)
		}
		err := lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		c.end(err)
	}()
	return c, nil
}

func (c *Client) finish(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if waits := c.waiting[a.ID]; waits != nil {
		delete(c.waiting, a.ID)
		waits <- a.Answer
	}
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = err
	close(c.over)
}

// Ask asks from inside the pod. The error says that it could not be asked.
func (c *Client) Ask(ctx context.Context, q connectivity.Question, patience time.Duration) (probe.Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience+late, errors.New("the agent does not answer"))
	defer cancel()
	c.mu.Lock()
	c.next++
	id, waits := c.next, make(chan probe.Answer, 1)
	c.waiting[id] = waits
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err := c.send(question{id, q, patience}); err != nil {
		return probe.Answer{}, err
	}
	select {
	case a := <-waits:
		return a, nil
	case <-c.over:
		return probe.Answer{}, fmt.Errorf("the agent has ended: %w", c.ended)
	case <-ctx.Done():
		return probe.Answer{}, context.Cause(ctx)
	}
}

func (c *Client) send(q question) error {
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	return nil
}

// Close ends the stream, and with it the agent.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.over
	return err
}
