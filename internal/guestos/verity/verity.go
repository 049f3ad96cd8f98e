// SPDX-License-Identifier: Apache-2.0

// Package verity is the kernel parameter by which the measured command line names the one root image that a guest
// accepts. The image builder writes it, the early user space of the guest reads it; neither trusts anything else
// about the root image.
package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Parameter is the name of the kernel parameter.
const Parameter = "nacre.verity"

// BlockSize is the size in bytes of data blocks and hash blocks. It is fixed, like the hash (SHA-256) and the hash
// format (1, salt before data; Linux Documentation/admin-guide/device-mapper/verity.rst).
const BlockSize = 4096

const (
	maxSalt   = 64      // bytes
	maxBlocks = 1 << 24 // 64 GiB of data
)

// Params describes a root image: DataBlocks blocks of file system, directly followed by the hash tree, root first.
type Params struct {
	RootHash   [sha256.Size]byte
	Salt       []byte
	DataBlocks uint64
}

// ErrMissing says that a command line has no Parameter.
var ErrMissing = errors.New("the kernel command line has no " + Parameter)

// String formats p as the value of Parameter: root hash, salt (both in hexadecimal) and number of data blocks.
func (p Params) String() string {
	return fmt.Sprintf("%x,%x,%d", p.RootHash, p.Salt, p.DataBlocks)
}

// Parse reads what String wrote.
func Parse(value string) (Params, error) {
	var p Params
	fields := strings.Split(value, ",")
	if len(fields) != 3 {
		return p, fmt.Errorf("%s has %d fields, want root hash, salt and data blocks", Parameter, len(fields))
	}
	root, err := hex.DecodeString(fields[0])
	if err != nil || len(root) != len(p.RootHash) {
		return p, fmt.Errorf("%s: root hash %q is not %d bytes in hexadecimal", Parameter, fields[0], len(p.RootHash))
	}
	salt, err := hex.DecodeString(fields[1])
	if err != nil || len(salt) > maxSalt {
		return p, fmt.Errorf("%s: salt %q is not at most %d bytes in hexadecimal", Parameter, fields[1], maxSalt)
	}
	blocks, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil || blocks == 0 || blocks > maxBlocks {
		return p, fmt.Errorf("%s: %q is not a number of blocks from 1 to %d", Parameter, fields[2], maxBlocks)
	}
	copy(p.RootHash[:], root)
	p.Salt = salt
	p.DataBlocks = blocks
	return p, nil
}

// FromCmdline finds and parses Parameter in a kernel command line. A second one is refused: the kernel's own
// parameters take the last, others the first, and a root hash must not depend on who reads.
func FromCmdline(cmdline string) (Params, error) {
	var value string
	found := false
	for word := range strings.FieldsSeq(cmdline) {
		v, ok := strings.CutPrefix(word, Parameter+"=")
		if !ok {
			continue
		}
		if found {
			return Params{}, fmt.Errorf("the kernel command line has more than one %s", Parameter)
		}
		value, found = v, true
	}
	if !found {
		return Params{}, ErrMissing
	}
	return Parse(value)
}
