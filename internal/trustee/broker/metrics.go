// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/nacre-project/nacre/attest"
)

// metrics are what the trustee counts. No label has a value that a client can choose: methods, platforms and codes
// come from fixed lists.
type metrics struct {
	registry *prometheus.Registry

	requests          *prometheus.CounterVec
	duration          prometheus.Histogram
	responseSize      prometheus.Histogram
	active            prometheus.Gauge
	auths             prometheus.Counter
	attests           prometheus.Counter
	accepted          *prometheus.CounterVec
	refused           *prometheus.CounterVec
	unrecorded        prometheus.Counter
	evaluations       prometheus.Counter
	approvals         prometheus.Counter
	violations        prometheus.Counter
	unrecordedDenials prometheus.Counter
	resourceReads     prometheus.Counter
	resourceWrites    prometheus.Counter
	resourceDeletes   prometheus.Counter
	refusals          *prometheus.CounterVec
	unlogged          prometheus.Counter
	limited           *prometheus.CounterVec
	limitedBodies     prometheus.Counter // of limited
	rotations         prometheus.Counter
	reloads           *prometheus.CounterVec
	reloaded          prometheus.Gauge
}

func newMetrics(simulatedRoots int) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	m.requests = counters("kbs_http_requests_total", "Requests answered.", "method", "status")
	m.duration = histogram("kbs_http_request_duration_seconds", "Time from a request's head to its answer.",
		[]float64{0.0005, 0.001, 0.005, 0.01, 0.05, 0.5, 1})
	m.responseSize = histogram("kbs_http_response_size_bytes", "Size of answers' bodies.",
		prometheus.ExponentialBuckets(32, 4, 5))
	m.active = prometheus.NewGauge(prometheus.GaugeOpts{Name: "kbs_http_active_connections",
		Help: "Requests being answered."})
	m.registry.MustRegister(m.active)
	m.auths = counter("kbs_auth_requests_total", "Challenges asked for.")
	m.attests = counter("kbs_attestation_requests_total", "Attestations asked for.")
	m.accepted = counters("kbs_attestation_successes_total", "Evidence that was accepted, by platform.", "tee_type")
	m.refused = counters("kbs_attestation_failures_total", "Evidence that was refused, by platform and code.",
		"tee_type", "code")
	m.unrecorded = counter("nacre_attestation_failures_unrecorded_total",
		"Refused evidence that has no audit record: not authentic, or the same evidence too often.")
	m.evaluations = counter("kbs_policy_evaluations_total", "Release decisions.")
	m.approvals = counter("kbs_policy_approvals_total", "Releases allowed.")
	m.violations = counter("kbs_policy_violations_total", "Releases denied.")
	m.unrecordedDenials = counter("nacre_release_refusals_unrecorded_total",
		"Refused releases that have no audit record, because the same token was refused too often.")
	m.resourceReads = counter("kbs_resource_reads_total", "Resources released.")
	m.resourceWrites = counter("kbs_resource_writes_total", "Resources set.")
	m.resourceDeletes = counter("kbs_resource_deletes_total", "Resources deleted.")
	m.refusals = counters("nacre_refusals_total", "Requests refused, by code.", "code")
	m.unlogged = counter("nacre_refusals_unlogged_total", "Requests refused without a log line, because too many were.")
	m.limited = counters("nacre_limited_total",
		"Requests and connections turned away, by the limit that was reached.", "limit")
	m.limitedBodies = m.limited.WithLabelValues(limitBodies)
	m.rotations = counter("nacre_token_key_rotations_total", "New keys that sign tokens.")
	m.reloads = counters("nacre_reloads_total", "Files read again, by whether what they say is in force.", "result")
	m.reloaded = prometheus.NewGauge(prometheus.GaugeOpts{Name: "nacre_last_reload_timestamp_seconds",
		Help: "When other files were put in force, in seconds since 1970; 0 when none were."})
	m.registry.MustRegister(m.reloaded)
	roots := prometheus.NewGauge(prometheus.GaugeOpts{Name: "nacre_simulated_roots",
		Help: "Simulated roots that are trusted. Anything but 0 is for development only."})
	roots.Set(float64(simulatedRoots))
	m.registry.MustRegister(roots)
	return m
}

// text is what /metrics answers.
func (m *metrics) text() (*reply, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather the metrics: %w", err)
	}
	var out bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	encoder := expfmt.NewEncoder(&out, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, fmt.Errorf("write the metrics: %w", err)
		}
	}
	return &reply{contentType: string(format), body: out.Bytes()}, nil
}

func (m *metrics) observe(method string, status, size int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	m.duration.Observe(took.Seconds())
	m.responseSize.Observe(float64(size))
}

// refusedCode is the label of a refusal's code: codes of verifiers come from a fixed list, and what is not in it has
// no name here.
func refusedCode(code string) string {
	if _, known := attestReasons[attest.Code(code)]; known {
		return code
	}
	switch code {
	case codeNonceUsed, codeNonceMismatch, codePolicyError:
		return code
	}
	return "other"
}
