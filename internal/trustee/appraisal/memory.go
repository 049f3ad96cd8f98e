// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
)

const (
	rememberedRatings = 512
	rememberedMax     = 4 << 10 // bytes of what a policy reads of one guest's claims
)

// memory holds how one policy rated guests. Many guests are alike but for what no policy looks at: the nonce, their
// keys, the ids that a platform gives them. A policy is asked about the first of them only.
type memory struct {
	reads   [][]string // what of the evidence the policy looks at
	ratings *lru.Cache[question, *rating]
}

// question is all that a policy's answers depend on. It is compared as a whole, so there is no mistaking one for another.
type question struct {
	values      string             // what the policy reads of the evidence, but for the init-data's files
	hasInitData bool               // the platform has some
	initData    *InitData          // stands for the files, which do not change
	references  *refvalue.Snapshot // which does not change either
	second      int64              // since 1970: reference values end at whole seconds
}

// newMemory makes an empty memory, or none for a policy of which it is not known what it looks at.
func newMemory(reads [][]string, known bool) (*memory, error) {
	if !known {
		return nil, nil
	}
	ratings, err := lru.New[question, *rating](rememberedRatings)
	if err != nil {
		return nil, fmt.Errorf("make a memory of ratings: %w", err)
	}
	return &memory{reads, ratings}, nil
}

// recall returns how the same was rated before; otherwise it is rated now, by rate.
func (m *memory) recall(e Evidence, annotated map[string]any, refs *refvalue.Snapshot, now time.Time,
	rate func() (*rating, error)) (*rating, error) {
	if m == nil {
		return rate()
	}
	values, ok := m.values(annotated)
	if !ok {
		return rate()
	}
	q := question{values: values, references: refs, second: now.Unix()}
	_, q.hasInitData = annotated[initDataClaim].(string)
	if _, shown := annotated[ear.InitDataClaims]; shown {
		q.initData = e.InitData
	}
	if r, ok := m.ratings.Get(q); ok {
		return r, nil
	}
	r, err := rate()
	if err == nil {
		m.ratings.Add(q, r)
	}
	return r, err
}

// values are what the policy reads of the evidence, each after a letter for its type, texts after their lengths; false
// when something is not a simple value.
func (m *memory) values(annotated map[string]any) (string, bool) {
	var b []byte
	for _, path := range m.reads {
		if path[0] == ear.InitDataClaims {
			continue
		}
		value, present := at(annotated, path)
		if !present {
			b = append(b, '-')
			continue
		}
		switch v := value.(type) {
		case string:
			b = append(binary.AppendUvarint(append(b, 's'), uint64(len(v))), v...)
		case bool:
			b = append(b, 'f')
			if v {
				b[len(b)-1] = 't'
			}
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
		case float64:
			b = binary.BigEndian.AppendUint64(append(b, 'd'), math.Float64bits(v))
		default:
			return "", false
		}
		if len(b) > rememberedMax {
			return "", false
		}
	}
	return string(b), true
}

// at is what lies at a path in an object; false when nothing does. What is no object where the path goes on is returned
// as it is, so that a list is not taken for something simple.
func at(object map[string]any, path []string) (value any, present bool) {
	value = object
	for _, name := range path {
		members, ok := value.(map[string]any)
		if !ok {
			break
		}
		if value, present = members[name]; !present {
			return nil, false
		}
	}
	return value, true
}
