// SPDX-License-Identifier: Apache-2.0

package refvalue

import (
	"context"
	"fmt"

	"github.com/nacre-project/nacre/internal/trustee/store"
)

// Import sets values that end when they say, all or none, in one transaction with what also does there.
func (r *Registry) Import(ctx context.Context, values []Value, also func(*store.Tx) error) error {
	changes := map[string]*entry{}
	for _, v := range values {
		if err := CheckName(v.Name); err != nil {
			return err
		}
		if v.Version != version && v.Version != "" {
			return fmt.Errorf("%w: value %q has version %q, understood is %q", ErrMessage, v.Name, v.Version, version)
		}
		d, err := document(v.Value)
		if err != nil {
			return fmt.Errorf("%w: value %q: %w", ErrMessage, v.Name, err)
		}
		v.Version = version
		changes[v.Name] = &entry{document: d, Value: v}
	}
	return r.change(ctx, changes, also)
}
