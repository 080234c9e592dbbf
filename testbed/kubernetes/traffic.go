package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// traffic is a person, or many of them, at work in a cluster: faster than kubectl could be.
type traffic struct {
	namespace string
	services  int
	endpoints int
	rate      int
	samples   int
	length    time.Duration
	server    string
	client    kubernetes.Interface
	exports   dynamic.ResourceInterface
}

const atOnce = 16

// trafficMain does one of the jobs `fill`, `export`, `change` and `sample`, and prints what was done as JSON.
func trafficMain(job string, words []string) error {
	t := traffic{}
	flags := flag.NewFlagSet(job, flag.ExitOnError)
	path := flags.String("kubeconfig", "", "of the cluster that is changed")
	flags.StringVar(&t.namespace, "namespace", "many", "where")
	flags.IntVar(&t.services, "services", 1000, "how many Services there are")
	flags.IntVar(&t.endpoints, "endpoints", 10, "endpoints of each")
	flags.IntVar(&t.rate, "rate", 50, "changes a second")
	flags.IntVar(&t.samples, "samples", 100, "exports that are timed")
	flags.DurationVar(&t.length, "for", 30*time.Second, "how long things change")
	flags.StringVar(&t.server, "dns", dnsIP+":53", "the DNS that is asked")
	if err := flags.Parse(words); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *path)
	if err != nil {
		return err
	}
	config.QPS = -1
	if t.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	all, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	kind := schema.GroupVersionResource{Group: "multicluster.x-k8s.io", Version: "v1beta1", Resource: "serviceexports"}
	t.exports = all.Resource(kind).Namespace(t.namespace)
	ctx := context.Background()
	began := time.Now()
	said := map[string]any{}
	switch job {
	case "fill":
		err = t.each(func(at int) error { return t.create(ctx, fmt.Sprintf("s%d", at), at, t.endpoints) })
	case "export":
		err = t.each(func(at int) error { return t.export(ctx, fmt.Sprintf("s%d", at)) })
	case "change":
		said["changes"], err = t.change(ctx)
	case "sample":
		said["millis"], err = t.sample(ctx)
	}
	if err != nil {
		return err
	}
	said["seconds"] = time.Since(began).Seconds()
	return json.NewEncoder(os.Stdout).Encode(said)
}

// each does something once for every Service, a few at a time; the first error ends it.
func (t *traffic) each(act func(at int) error) error {
	var next atomic.Int64
	failed := make(chan error, atOnce)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for at := int(next.Add(1)) - 1; at < t.services; at = int(next.Add(1)) - 1 {
				if err := act(at); err != nil {
					next.Add(int64(t.services))
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	return <-failed
}

func (t *traffic) create(ctx context.Context, name string, at, endpoints int) error {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	if _, err := t.client.CoreV1().Services(t.namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	slice := slice(name, at, endpoints, 0)
	_, err := t.client.DiscoveryV1().EndpointSlices(t.namespace).Create(ctx, slice, metav1.CreateOptions{})
	return err
}

// slice is the slice of a Service; the addresses are nobody's. In every other turn its first endpoint is not ready.
func slice(name string, at, endpoints, turn int) *discovery.EndpointSlice {
	port, portName := int32(8080), "http"
	found := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-1", Labels: map[string]string{discovery.LabelServiceName: name},
		},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: &portName, Port: &port}},
	}
	for index := range endpoints {
		number := at*endpoints + index
		ready := index != 0 || turn%2 == 0
		found.Endpoints = append(found.Endpoints, discovery.Endpoint{
			Addresses:  []string{fmt.Sprintf("198.%d.%d.%d", 20+number/60000, number/240%250, number%240+1)},
			Conditions: discovery.EndpointConditions{Ready: &ready},
		})
	}
	return found
}

func (t *traffic) export(ctx context.Context, name string) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
		"metadata": map[string]any{"name": name},
	}}
	_, err := t.exports.Create(ctx, object, metav1.CreateOptions{})
	return err
}

// change changes the endpoints of one Service after another, at the rate that is asked for. One that is late does
// not hold up those after it, while not too many are.
func (t *traffic) change(ctx context.Context) (int64, error) {
	var done, failed atomic.Int64
	var last atomic.Value
	room := make(chan struct{}, 10*atOnce)
	tick := time.NewTicker(time.Second / time.Duration(t.rate))
	defer tick.Stop()
	over := time.After(t.length)
	slices := t.client.DiscoveryV1().EndpointSlices(t.namespace)
	for count := 0; ; count++ {
		select {
		case <-over:
			for range cap(room) {
				room <- struct{}{}
			}
			if failed.Load() > 0 {
				return 0, fmt.Errorf("%d changes failed: %v", failed.Load(), last.Load())
			}
			return done.Load(), nil
		case <-tick.C:
		}
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			at, turn := count%t.services, 1+count/t.services
			wanted := slice(fmt.Sprintf("s%d", at), at, t.endpoints, turn)
			if _, err := slices.Update(ctx, wanted, metav1.UpdateOptions{}); err != nil {
				failed.Add(1)
				last.Store(err)
				return
			}
			done.Add(1)
		}()
	}
}

// sample exports one Service after another, and asks DNS until the name is there: milliseconds, the shortest first.
func (t *traffic) sample(ctx context.Context) ([]int64, error) {
	taken := []int64{}
	for at := range t.samples {
		name := fmt.Sprintf("x%d", at)
		if err := t.create(ctx, name, 200000+at, 1); err != nil {
			return nil, err
		}
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		if err := t.export(ctx, name); err != nil {
			return nil, err
		}
		if err := t.resolves(name, began); err != nil {
			return nil, err
		}
		taken = append(taken, time.Since(began).Milliseconds())
	}
	slices.Sort(taken)
	return taken, nil
}

func (t *traffic) resolves(name string, began time.Time) error {
	question := new(dns.Msg)
	question.SetQuestion(strings.Join([]string{name, t.namespace, "svc.clusterset.local."}, "."), dns.TypeA)
	client := dns.Client{Net: "udp", Timeout: time.Second, Dialer: &net.Dialer{Timeout: time.Second}}
	for {
		question.Id = dns.Id()
		answer, _, err := client.Exchange(question, t.server)
		if err == nil && len(answer.Answer) > 0 {
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%s does not resolve after a minute: %v, %v", name, answer, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
