// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxMessage caps a line of the control channel, in bytes. The answers that we ask for have a few hundred.
const maxMessage = 1 << 20

// monitor speaks QMP (QEMU Machine Protocol, docs/interop/qmp-spec): one JSON object a line, commands answered in order.
type monitor struct {
	conn net.Conn
	done chan struct{} // closed when nothing more is read

	mu      sync.Mutex
	next    int
	waiting map[int]chan response
	onEvent func(name string)
}

type response struct {
	result json.RawMessage
	err    error
}

// newMonitor starts reading; onEvent is called with the name of each event, from the reading goroutine.
func newMonitor(conn net.Conn, onEvent func(name string)) *monitor {
	m := &monitor{conn: conn, done: make(chan struct{}), waiting: map[int]chan response{}, onEvent: onEvent}
	go m.read()
	return m
}

// negotiate leaves the mode in which a fresh channel answers nothing but this command. QEMU greets first, but does not demand
// that the greeting is waited for.
func (m *monitor) negotiate(ctx context.Context) error {
	_, err := m.execute(ctx, "qmp_capabilities")
	return err
}

func (m *monitor) execute(ctx context.Context, command string) (json.RawMessage, error) {
	answer := make(chan response, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = answer
	line, err := json.Marshal(map[string]any{"execute": command, "id": id})
	if err == nil {
		_, err = m.conn.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()
	if err != nil {
		return nil, fmt.Errorf("asking QEMU to %s: %w", command, err)
	}
	select {
	case r := <-answer:
		if r.err != nil {
			return nil, fmt.Errorf("asking QEMU to %s: %w", command, r.err)
		}
		return r.result, nil
	case <-m.done:
		return nil, fmt.Errorf("asking QEMU to %s: %w", command, net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("asking QEMU to %s: %w", command, context.Cause(ctx))
	}
}

func (m *monitor) read() {
	defer close(m.done)
	defer m.conn.Close()
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(make([]byte, 0, 4096), maxMessage)
	for lines.Scan() {
		if err := m.handle(lines.Bytes()); err != nil {
			return
		}
	}
}

var errNotQMP = errors.New("not a QMP message")

func (m *monitor) handle(line []byte) error {
	var message struct {
		ID     *int            `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
		Event string `json:"event"`
	}
	if err := json.Unmarshal(line, &message); err != nil {
		return errNotQMP
	}
	if message.Event != "" {
		m.onEvent(message.Event)
		return nil
	}
	if message.ID == nil {
		// The greeting, or an error about a line that could not be parsed; ours can.
		return nil
	}
	r := response{result: message.Return}
	if message.Error != nil {
		r.err = fmt.Errorf("%s: %s", message.Error.Class, message.Error.Desc)
	}
	m.mu.Lock()
	answer, ok := m.waiting[*message.ID]
	delete(m.waiting, *message.ID)
	m.mu.Unlock()
	if ok {
		answer <- r
	}
	return nil
}

// close ends the reading and waits for it.
func (m *monitor) close() error {
	err := m.conn.Close()
	<-m.done
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
