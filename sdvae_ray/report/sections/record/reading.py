"""How to read each number of the report: one plain sentence, with its unit and its direction."""

from sdvae_ray import shelves
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section

READ = {
    "side": "Either image, the originals, or the name of an autoencoder or a codec, its reconstructions. identity "
    "gives back exactly what it got, and so shows what the pipeline itself does to a score.",
    "random weights": "A model built without trained weights; its numbers mean nothing beyond that the job ran.",
    "mae ↓": "Mean absolute error per stain, as a fraction of full scale; 0 is exact.",
    "psnr ↑": "Peak signal-to-noise ratio per stain, in decibels, for a range of 1; inf is exact.",
    "ssim ↑": "Structural similarity per stain, at most 1. This is SSIM; the published plots show 1 - SSIM under the "
    "same name.",
    "emd ↓": "Earth mover's distance between the two intensity histograms of a stain, as a fraction of full scale; it "
    "does not see where in the patch the pixels are.",
    "mse ↓": "Mean squared error per stain, of full scale squared; 0 is exact.",
    "ms_ssim ↑": "SSIM over five scales; – where patches are smaller than 176 pixels.",
    "lpips ↓": "Learned perceptual distance (AlexNet, v0.1) per RGB pass; 0 is exact. It was fitted to what people "
    "see in photographs.",
    "foreground_mae ↓": "mae over the cells of the original alone; a blank patch has none and does not count.",
    "foreground_ssim ↑": "SSIM of windows centred on the cells of the original; a blank patch has none and does not "
    "count.",
    "radial_power": "Power of the reconstruction over that of the original, per octave of wavelength: 1 kept, 0 lost, "
    "above 1 invented.",
    "stain_correlation ↓": "By how much the correlations of a stain with the others within a patch are off, on "
    "average; 0 is exact.",
    "bits": "Bits per pixel and stain: latents as stored (float16), codecs the bytes that they made, identity the raw "
    "pixels. A pass's bits are shared by its three planes. Entropy: what an ideal coder of order zero needs for the "
    "quantised latent.",
    "kld": "Divergence of the encoder's posterior from a standard normal, in nats per RGB pass; it describes the "
    "latent and is not a score; – where a model has no posterior.",
    "mAP ↑": "Mean average precision: 1 where, of all wells sorted by cosine similarity to one of a compound, its "
    "replicates come before every negative control. Normalised mAP is 1 at best and 0 by chance.",
    "FR ↑": "Fraction retrieved: the share of scored compounds whose mAP beats chance, corrected for the number of "
    "compounds. Compounds that do nothing keep it below 1.",
    "R@k ↑": "Replicate recall: the share of a well's replicates among its k nearest wells; at most k divided by "
    "their number.",
    "own well ↑": "Share of treated wells whose reconstruction has its own original as the nearest of all originals; "
    "by chance, one in the number of wells.",
    "FID ↓": "Frechet distance between the patches' features on the originals and on a side, in the feature space of "
    "the extractor that heads the table. It is not the TF-FID of image generation, compares sides within one "
    "extractor only, and is too large where patches are few.",
}
_WHITENING = (
    "The published normalisation fits its whitening on the same controls that serve as negatives, which raises FR on every side: "
    "compare sides, not absolute values."
)


def section(scored: ScoredRun) -> Section:
    """Return term -> sentence, for the numbers that this run's report shows."""
    config = scored.config
    unused = set(shelves.names("metrics")) - set(config.metrics)
    terms = {term: text for term, text in READ.items() if term.partition(" ")[0] not in unused}
    if not config.random_weights:
        del terms["random weights"]
    if config.score.normalise in ("published", "published_float16"):
        terms["published normalisation"] = _WHITENING
    return Section("read", "How to read the numbers", "How to read", template="reading.html", terms=terms)
