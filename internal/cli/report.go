// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// reporter tells the user what happens while a pod runs.
type reporter interface {
	note(text string)
	step(sandbox.Event)
	container(pod.Event)
	output(container string) (stdout, stderr io.Writer)
	end(code int)
	close()
}

// patience is how long a step may take before it is announced.
const patience = time.Second

// terminal reports to people: the pod's output where output goes, all else on standard error with the time since the beginning.
type terminal struct {
	begin    time.Time
	stdout   *lockedWriter
	stderr   *lockedWriter
	prefixed bool

	mu      sync.Mutex
	pending map[string]*time.Timer // announcements of steps that may turn out short
	first   time.Duration          // of the pod's first output
}

// lockedWriter keeps what several containers write apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func newTerminal(stdout, stderr io.Writer, p *pod.Manifest) *terminal {
	return &terminal{
		begin: time.Now(), stdout: &lockedWriter{w: stdout}, stderr: &lockedWriter{w: stderr}, pending: map[string]*time.Timer{},
		prefixed: len(p.Spec.InitContainers)+len(p.Spec.Containers) > 1,
	}
}

func (t *terminal) note(text string) {
	fmt.Fprintf(t.stderr, "nacre: %5.1fs  %s\n", time.Since(t.begin).Seconds(), text)
}

// started announces something that has begun, once it has taken a while.
func (t *terminal) started(key, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending[key] = time.AfterFunc(patience, func() { t.note(text + " …") })
}

// done reports the end of something if it took a while.
func (t *terminal) done(key, text string, took time.Duration) {
	t.mu.Lock()
	if timer := t.pending[key]; timer != nil {
		timer.Stop()
	}
	delete(t.pending, key)
	t.mu.Unlock()
	if took >= patience {
		t.note(fmt.Sprintf("%s (%.1fs)", text, took.Seconds()))
	}
}

func (t *terminal) step(e sandbox.Event) {
	if e.Done {
		t.done(string(e.Step), e.Text, e.Took)
	} else {
		t.started(string(e.Step), e.Text)
	}
}

func (t *terminal) container(e pod.Event) {
	switch e.State {
	case pod.Creating:
		t.started(e.ID, fmt.Sprintf("container %s: the guest pulls its image", e.Container))
	case pod.Started:
		t.done(e.ID, fmt.Sprintf("container %s: started", e.Container), e.Took)
	case pod.Exited:
		if e.ExitCode != 0 {
			t.note(fmt.Sprintf("container %s: exit code %d", e.Container, e.ExitCode))
		}
	}
}

func (t *terminal) output(container string) (io.Writer, io.Writer) {
	prefix := ""
	if t.prefixed {
		prefix = container + " | "
	}
	return &lines{to: t.stdout, prefix: prefix, began: t.wrote}, &lines{to: t.stderr, prefix: prefix, began: t.wrote}
}

func (t *terminal) wrote() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == 0 {
		t.first = time.Since(t.begin)
	}
}

func (t *terminal) end(code int) {
	t.mu.Lock()
	first := t.first
	t.mu.Unlock()
	text := fmt.Sprintf("the pod has ended with exit code %d", code)
	if first != 0 {
		text += fmt.Sprintf("; its first output came after %.1fs", first.Seconds())
	}
	t.note(text)
}

func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, timer := range t.pending {
		timer.Stop()
	}
}

// lines writes a prefix before each line. Without a prefix it passes on what comes as it comes.
type lines struct {
	to     io.Writer
	prefix string
	began  func()
	inside bool // of a line
}

func (l *lines) Write(b []byte) (int, error) {
	l.began()
	if l.prefix == "" {
		return l.to.Write(b)
	}
	var out bytes.Buffer
	for line := range bytes.Lines(b) {
		if !l.inside {
			out.WriteString(l.prefix)
		}
		out.Write(line)
		l.inside = line[len(line)-1] != '\n'
	}
	if _, err := l.to.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// jsonLines reports to programs: an object a line, in the order in which things happen.
type jsonLines struct {
	begin time.Time
	mu    sync.Mutex
	e     *json.Encoder
}

// line is one object of jsonLines; fields that do not apply are left out.
type line struct {
	Time      time.Time `json:"time"`
	ElapsedMS int64     `json:"elapsed_ms"`
	Event     string    `json:"event"` // note, step, container, output or end
	Step      string    `json:"step,omitempty"`
	Container string    `json:"container,omitempty"`
	State     string    `json:"state,omitempty"` // begun or done; creating, started or exited
	TookMS    *int64    `json:"took_ms,omitempty"`
	Code      *int      `json:"code,omitempty"`
	Stream    string    `json:"stream,omitempty"`
	Text      string    `json:"text,omitempty"`
}

func newJSONLines(w io.Writer) *jsonLines {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return &jsonLines{begin: time.Now(), e: e}
}

func (j *jsonLines) emit(l line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l.Time = time.Now().UTC()
	l.ElapsedMS = time.Since(j.begin).Milliseconds()
	// Whoever reads the lines has gone; the pod goes on and its exit status tells.
	_ = j.e.Encode(l)
}

func milliseconds(d time.Duration) *int64 {
	ms := d.Milliseconds()
	return &ms
}

func (j *jsonLines) note(text string) { j.emit(line{Event: "note", Text: text}) }

func (j *jsonLines) step(e sandbox.Event) {
	l := line{Event: "step", Step: string(e.Step), State: "begun", Text: e.Text}
	if e.Done {
		l.State, l.TookMS = "done", milliseconds(e.Took)
	}
	j.emit(l)
}

func (j *jsonLines) container(e pod.Event) {
	l := line{Event: "container", Container: e.Container, State: string(e.State)}
	if e.State != pod.Creating {
		l.TookMS = milliseconds(e.Took)
	}
	if e.State == pod.Exited {
		l.Code = &e.ExitCode
	}
	j.emit(l)
}

func (j *jsonLines) output(container string) (io.Writer, io.Writer) {
	stream := func(name string) io.Writer {
		return writeFunc(func(b []byte) {
			j.emit(line{Event: "output", Container: container, Stream: name, Text: string(b)})
		})
	}
	return stream("stdout"), stream("stderr")
}

type writeFunc func(b []byte)

func (w writeFunc) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func (j *jsonLines) end(code int) { j.emit(line{Event: "end", Code: &code}) }

func (j *jsonLines) close() {}
