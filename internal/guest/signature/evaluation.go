// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
)

// candidate is one signature that may be good.
type candidate struct {
	subject subject
	// stored is the signature as image/v5 keeps it in a file: a zero byte, the format's name, a line feed, the signature.
	stored []byte
	// claims is what an unverified signature says it is one of; "" when that is not known. It chooses the words of an error only.
	claims claims
}

type claims struct {
	digest digest.Digest
	name   string
}

// found are the signatures of one kind, and what went wrong while they were gathered.
type found struct {
	candidates []candidate
	problems   []error
}

// evaluation is one image on its way through the requirements of its scope.
type evaluation struct {
	policy   *Policy
	name     reference.Canonical
	subjects []subject
	source   Source
	found    map[string]found // by the type of requirement
}

// meet returns nil when the image meets the requirement.
func (e *evaluation) meet(ctx context.Context, r requirement) error {
	switch r.kind {
	case typeAccept:
		return nil
	case typeReject:
		return refuse(CodeRejected, "the policy rejects %s, signed or not: give it a scope of its own if it is to run", e.name.Name())
	}
	text, err := r.resolved(ctx, e.policy.keys)
	if err != nil {
		return err
	}
	if err := checkKeys(r.kind, text); err != nil {
		return failed(CodeKeyUnavailable, err, "a key of the policy cannot be used")
	}
	intended, err := r.intended(e.name)
	if err != nil {
		return failed(CodeReferenceInvalid, err, "%s", e.name)
	}
	signatures := e.signatures(ctx, r.kind)
	var verdicts []verdict
	for _, c := range signatures.candidates {
		err := evaluate(ctx, text, intended, c)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		verdicts = append(verdicts, c.judge(err, intended))
	}
	return e.none(verdicts, signatures.problems)
}

// signatures gathers what a type of requirement looks at, once.
func (e *evaluation) signatures(ctx context.Context, kind string) found {
	if f, ok := e.found[kind]; ok {
		return f
	}
	var f found
	for _, s := range e.subjects {
		var more found
		if kind == typeSignedBy {
			more = e.policy.places.signatures(ctx, e.policy.keys, e.name, s)
		} else {
			more = cosignSignatures(ctx, e.source, s)
		}
		f.candidates = append(f.candidates, more.candidates...)
		f.problems = append(f.problems, more.problems...)
	}
	if e.found == nil {
		e.found = map[string]found{}
	}
	e.found[kind] = f
	return f
}

// verdict is why one signature is not good.
type verdict struct {
	code Code
	text string
}

// judge finds the code for what image/v5 said about a signature.
func (c candidate) judge(err error, intended reference.Named) verdict {
	if !verified(err) {
		return verdict{CodeInvalid, err.Error()}
	}
	if c.claims.digest != c.subject.digest {
		return verdict{CodeDigest, fmt.Sprintf("a good signature of another image, %s", c.claims.digest)}
	}
	text := fmt.Sprintf("a good signature of this image under the name %q, which signedIdentity does not allow for %s", c.claims.name, intended)
	return verdict{CodeIdentity, text}
}

// maxReasons is how many signatures an error speaks of.
const maxReasons = 4

// none says why no signature is good: by the one that came closest.
func (e *evaluation) none(verdicts []verdict, problems []error) error {
	problem := errors.Join(problems...)
	switch {
	case len(verdicts) == 0 && problem != nil:
		return failed(CodeUnavailable, problem, "the signatures of %s could not be read", e.name.Name())
	case len(verdicts) == 0:
		return refuse(CodeRequired, "%s has no signature that this requirement could look at: sign it (`nacre image sign %s@%s --key KEY`)",
			e.name.Name(), e.name.Name(), e.name.Digest())
	}
	advice := map[Code]string{
		CodeIdentity: "sign the image under the name that the pod uses, or say in signedIdentity which name to expect",
		CodeDigest:   "sign the image that the pod uses, and see that the index is what was signed when the pod names an index",
		CodeInvalid:  "see that the policy has the key of whoever signed it",
	}
	code := CodeInvalid
	var reasons []string
	for _, v := range verdicts {
		if v.code == CodeIdentity || v.code == CodeDigest && code != CodeIdentity {
			code = v.code
		}
		if len(reasons) < maxReasons {
			reasons = append(reasons, v.text)
		}
	}
	if more := len(verdicts) - len(reasons); more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	return failed(code, problem, "no signature of %s is good (%s); %s", e.name.Name(), strings.Join(reasons, "; "), advice[code])
}

// claimed reads what a payload of either kind says it signs. Both have the same three members.
func claimed(payload []byte) claims {
	var p struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if json.Unmarshal(payload, &p) != nil {
		return claims{}
	}
	return claims{p.Critical.Image.Digest, p.Critical.Identity.Reference}
}
