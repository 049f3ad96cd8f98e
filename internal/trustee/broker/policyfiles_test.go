// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

func TestPoliciesFromFiles(t *testing.T) {
	s := start(t)
	s.provision()
	token := s.token(s.attempt())
	before := s.last().ID
	set := func(record release.Record) error {
		return s.broker.SetPolicies(t.Context(), broker.PolicyTexts{Release: record})
	}
	if err := set(release.Record{Text: templates.DenyAll()}); err != nil {
		t.Fatal(err)
	}
	if got := s.get(secretPath, withBearer(token)); got.status != 403 {
		t.Errorf("under the file's policy: %d %s", got.status, got.body)
	}
	list := s.records(before)
	if len(list) != 2 || !strings.HasPrefix(list[0].Detail, "set the release policy") || !strings.HasSuffix(list[0].Detail, "by its file") {
		t.Errorf("audit: %+v", list)
	}
	if err := set(release.Record{Text: templates.DenyAll()}); err != nil || s.last().ID != list[1].ID {
		t.Errorf("the same again: %v, %+v", err, s.last())
	}
	if err := set(release.Record{Text: "package policy\nallow if"}); err == nil {
		t.Error("a policy that is none is taken")
	}
	if err := s.admin.SetResourcePolicy(t.Context(), affirming(t), kbs.ReleaseOptions{AllowSimulated: true}); err == nil ||
		!strings.Contains(err.Error(), "kept in a file") {
		t.Errorf("an administrator sets it: %v", err)
	}
	if err := set(release.Record{}); err != nil {
		t.Fatal(err)
	}
	s.setRelease(affirming(t), kbs.ReleaseOptions{AllowSimulated: true})
	if got := s.get(secretPath, withBearer(token)); got.status != 200 {
		t.Errorf("without a file: %d %s", got.status, got.body)
	}
}
