package daemon

import (
	"switchyard/internal/tlsconf"

	"github.com/prometheus/client_golang/prometheus"
)

// certificates shows when certificates expire.
type certificates struct {
	list func() []tlsconf.Status
	desc *prometheus.Desc
}

// CertificateMetrics returns a collector of the times at which the certificates
// in use expire. List is asked each time.
func CertificateMetrics(list func() []tlsconf.Status) prometheus.Collector {
	return certificates{list, prometheus.NewDesc("switchyard_certificate_expiry_timestamp_seconds",
		"When the certificate that is in use expires, in Unix time.", []string{"file"}, nil)}
}

// Describe implements prometheus.Collector.
func (c certificates) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c certificates) Collect(out chan<- prometheus.Metric) {
	seen := make(map[string]bool)
	for _, one := range c.list() {
		if !seen[one.File] {
			seen[one.File] = true
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(one.Expires.Unix()), one.File)
		}
	}
}
