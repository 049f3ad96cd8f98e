// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vmm

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
)

// What comes out of QEMU may have been written by its guest.
func TestHostileControlChannel(t *testing.T) {
	for name, answer := range map[string]string{
		"closed":            "",
		"not JSON":          "hello\n",
		"endless line":      strings.Repeat("a", maxMessage+1),
		"array":             "[1,2]\n",
		"return of nothing": `{"return":{},"id":17}` + "\n",
		"id of another":     `{"return":{},"id":-1}` + "\n",
		"id is text":        `{"return":{},"id":"x"}` + "\n",
		"error":             `{"error":{"class":"GenericError","desc":"no"},"id":1}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			m := newMonitor(ours, func(string) {})
			go func() {
				_, _ = bufio.NewReader(theirs).ReadString('\n')
				_, _ = io.WriteString(theirs, answer)
				theirs.Close()
			}()
			if _, err := m.execute(expire(t), "quit"); err == nil {
				t.Error("accepted")
			}
			if err := m.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnswersAndEvents(t *testing.T) {
	ours, theirs := net.Pipe()
	events := make(chan string, 1)
	m := newMonitor(ours, func(name string) { events <- name })
	go func() {
		r := bufio.NewReader(theirs)
		_, _ = io.WriteString(theirs, `{"QMP":{"version":{}}}`+"\n")
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(theirs, `{"event":"STOP","timestamp":{}}`+"\n"+`{"return":{"a":1},"id":1}`+"\n")
	}()
	got, err := m.execute(expire(t), "query-status")
	if err != nil || string(got) != `{"a":1}` {
		t.Errorf("got %s, %v", got, err)
	}
	if event := <-events; event != "STOP" {
		t.Errorf("event %q", event)
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}

func FuzzControlMessage(f *testing.F) {
	for _, seed := range []string{`{"return":{},"id":1}`, `{"event":"STOP"}`, `{"error":{"class":"a","desc":"b"},"id":1}`, `{`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, line []byte) {
		m := &monitor{waiting: map[int]chan response{1: make(chan response, 1)}, onEvent: func(string) {}}
		_ = m.handle(line)
	})
}
