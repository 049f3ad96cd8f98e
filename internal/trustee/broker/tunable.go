// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/admin"
)

// Tunable is what can change while the trustee runs. Zero durations and sizes are the defaults.
type Tunable struct {
	Admin           *admin.Authenticator
	SessionLifetime time.Duration // from challenge to attestation, and of a cookie's token
	TokenLifetime   time.Duration
	BodyLimit       int64 // bytes
}

// complete fills in the defaults, and refuses what cannot be.
func (t *Tunable) complete() error {
	if t.Admin == nil {
		return errors.New("a broker needs an administrators' authenticator")
	}
	if t.SessionLifetime <= 0 {
		t.SessionLifetime = DefaultSessionLifetime
	}
	if t.SessionLifetime > MaxSessionLifetime {
		return fmt.Errorf("sessions of %s are too long; at most %s", t.SessionLifetime, MaxSessionLifetime)
	}
	if t.TokenLifetime <= 0 {
		t.TokenLifetime = DefaultTokenLifetime
	}
	if t.TokenLifetime > MaxTokenLifetime {
		return fmt.Errorf("tokens of %s are too long; at most %s", t.TokenLifetime, MaxTokenLifetime)
	}
	if t.BodyLimit <= 0 {
		t.BodyLimit = DefaultBodyLimit
	}
	return nil
}

// Tune puts other settings in force, for requests that come from now on, or returns why it does not.
func (b *Broker) Tune(t Tunable) error {
	if err := t.complete(); err != nil {
		return err
	}
	b.tunable.Store(&t)
	return nil
}

// Reloaded counts that files were read again, and whether what they say is in force now.
func (b *Broker) Reloaded(accepted bool) {
	if accepted {
		b.metrics.reloads.WithLabelValues("accepted").Inc()
		b.metrics.reloaded.Set(float64(b.now().Unix()))
		return
	}
	b.metrics.reloads.WithLabelValues("refused").Inc()
}
