// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/nacre-project/nacre/attest"
)

// metrics are what the trustee counts. No label has a value that a client can choose: methods, platforms, codes and
// plugins come from fixed lists. The names that begin with kbs_ are those of upstream's dashboards (spec/trustee.md
// §2.8).
type metrics struct {
	registry *prometheus.Registry

	requests          *prometheus.CounterVec
	duration          prometheus.Histogram
	requestSize       prometheus.Histogram
	responseSize      prometheus.Histogram
	active            prometheus.Gauge
	auths             prometheus.Counter
	authSuccesses     prometheus.Counter
	authErrors        prometheus.Counter
	attests           prometheus.Counter
	attestErrors      prometheus.Counter
	accepted          *prometheus.CounterVec
	refused           *prometheus.CounterVec
	unrecorded        prometheus.Counter
	evaluations       prometheus.Counter
	approvals         prometheus.Counter
	violations        prometheus.Counter
	policyErrors      prometheus.Counter
	unrecordedDenials prometheus.Counter
	pluginRequests    *prometheus.CounterVec
	pluginDuration    *prometheus.HistogramVec
	pluginErrors      *prometheus.CounterVec
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
		durationBuckets)
	m.requestSize = histogram("kbs_http_request_size_bytes", "Size of requests' bodies, as far as they were read.",
		prometheus.ExponentialBuckets(32, 4, 5))
	m.responseSize = histogram("kbs_http_response_size_bytes", "Size of answers' bodies.",
		prometheus.ExponentialBuckets(32, 4, 5))
	m.active = prometheus.NewGauge(prometheus.GaugeOpts{Name: "kbs_http_active_connections",
		Help: "Requests being answered."})
	m.registry.MustRegister(m.active)
	m.auths = counter("kbs_auth_requests_total", "Challenges asked for.")
	m.authSuccesses = counter("kbs_auth_successes_total", "Challenges given.")
	m.authErrors = counter("kbs_auth_errors_total", "Challenges refused.")
	m.attests = counter("kbs_attestation_requests_total", "Attestations asked for.")
	m.attestErrors = counter("kbs_attestation_errors_total", "Attestations that got no token, whatever the cause.")
	m.accepted = counters("kbs_attestation_successes_total", "Evidence that was accepted, by platform.", "tee_type")
	m.refused = counters("kbs_attestation_failures_total", "Evidence that was refused, by platform and code.",
		"tee_type", "code")
	m.unrecorded = counter("nacre_attestation_failures_unrecorded_total",
		"Refused evidence that has no audit record: not authentic, or the same evidence too often.")
	m.evaluations = counter("kbs_policy_evaluations_total", "Release decisions.")
	m.approvals = counter("kbs_policy_approvals_total", "Releases allowed.")
	m.violations = counter("kbs_policy_violations_total", "Releases denied.")
	m.policyErrors = counter("kbs_policy_errors_total", "Releases denied because the policy could not be evaluated.")
	m.pluginRequests = counters("kbs_plugin_requests_total", "Requests to plugins.", "plugin_name")
	m.pluginErrors = counters("kbs_plugin_errors_total", "Requests to plugins that were refused or failed.", "plugin_name")
	m.pluginDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kbs_plugin_request_duration_seconds",
		Help: "Time to answer a request to a plugin.", Buckets: durationBuckets}, []string{"plugin_name"})
	m.registry.MustRegister(m.pluginDuration)
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
	m.registry.MustRegister(roots, buildInfo())
	return m
}

var durationBuckets = []float64{0.0005, 0.001, 0.005, 0.01, 0.05, 0.5, 1}

// buildInfo says what program this is, as far as the program knows.
func buildInfo() prometheus.Gauge {
	labels := prometheus.Labels{"version": "", "git_hash": "", "build_date": ""}
	if info, ok := debug.ReadBuildInfo(); ok {
		labels["version"] = info.Main.Version
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				labels["git_hash"] = s.Value
			case "vcs.time":
				labels["build_date"] = s.Value // of the commit: builds have no other date, to be reproducible
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kbs_build_info", Help: "The program, by its labels.",
		ConstLabels: labels})
	g.Set(1)
	return g
}

// counted counts how a handler ends. Successes may be nil.
func (m *metrics) counted(h publicHandler, successes, failures prometheus.Counter) publicHandler {
	return func(ctx context.Context, c *call) (*reply, error) {
		answer, err := h(ctx, c)
		if err != nil {
			failures.Inc()
		} else if successes != nil {
			successes.Inc()
		}
		return answer, err
	}
}

// plugin counts a request to a plugin that there is.
func (m *metrics) plugin(name string, since time.Time, err *error) {
	m.pluginRequests.WithLabelValues(name).Inc()
	m.pluginDuration.WithLabelValues(name).Observe(time.Since(since).Seconds())
	if *err != nil {
		m.pluginErrors.WithLabelValues(name).Inc()
	}
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

func (m *metrics) observe(method string, status int, read int64, size int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	m.duration.Observe(took.Seconds())
	m.requestSize.Observe(float64(read))
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
