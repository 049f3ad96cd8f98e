// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// journal is the cheapest durable append there is: records that arrive while one write is on its way to the disk
// share the next.
type journal struct {
	file    *os.File
	pending chan entry
	ended   chan struct{}
}

type entry struct {
	record []byte
	done   chan<- error
}

func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the floor's journal: %w", err)
	}
	j := &journal{file: f, pending: make(chan entry, 1024), ended: make(chan struct{})}
	go j.run()
	return j, nil
}

func (j *journal) run() {
	defer close(j.ended)
	var batch []byte
	var waiting []chan<- error
	for first := range j.pending {
		batch, waiting = append(batch[:0], first.record...), append(waiting[:0], first.done)
	more:
		for {
			select {
			case e, open := <-j.pending:
				if !open {
					break more
				}
				batch, waiting = append(batch, e.record...), append(waiting, e.done)
			default:
				break more
			}
		}
		_, err := j.file.Write(batch)
		if err == nil {
			err = unix.Fdatasync(int(j.file.Fd()))
		}
		for _, w := range waiting {
			w <- err
		}
	}
}

// append returns when the record is on the disk.
func (j *journal) append(record []byte) error {
	done := make(chan error, 1)
	j.pending <- entry{record, done}
	return <-done
}

// close waits for what was handed in before.
func (j *journal) close() {
	close(j.pending)
	<-j.ended
	j.file.Close()
}
